"""Views for contrastive pre-training."""

import pytest
import torch
from torch import nn

from medssl_monai.transforms import Affine, Compose, GaussianNoise, KeyViews, ResizedCrop

SHAPES = {"2-D": (6, 1, 16, 12), "2-D, colour": (6, 3, 12, 16), "3-D": (6, 2, 10, 12, 8)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def images(request):
    return torch.rand(request.param, generator=seeded(5))


def numbers(count, dtype=torch.uint8):
    """Images of one grey value each, their number."""
    return torch.arange(count, dtype=dtype).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()


@pytest.mark.parametrize("keys", [1, 3])
def test_query_and_keys_of_an_image_stay_together(keys):
    batch = {"unlabeled": {"image": numbers(5), "index": torch.arange(5)}}
    result = KeyViews(Compose([]), keys)(batch, seeded())["unlabeled"]
    assert result.keys() == {"index", "query", "keys"}
    assert result["query"].shape == (5, 1, 4, 4)
    assert result["keys"].shape == (5, keys, 1, 4, 4)
    assert result["query"].dtype == result["keys"].dtype == torch.float32
    for number in range(5):
        assert (result["query"][number] == number / 255).all()
        assert (result["keys"][number] == number / 255).all()


def test_every_view_is_drawn_for_itself():
    batch = {"unlabeled": {"image": numbers(1).repeat(4, 1, 1, 1) + 100}}
    result = KeyViews(GaussianNoise(), 3)(batch, seeded())["unlabeled"]
    views = torch.cat([result["query"].unsqueeze(1), result["keys"]], dim=1).flatten(0, 1)
    assert len(views.flatten(1).unique(dim=0)) == 16


def test_same_generator_same_views_and_the_batch_is_left_alone():
    batch = {"unlabeled": {"image": numbers(4)}}
    first, second = (KeyViews(GaussianNoise(), 2)(batch, seeded(1))["unlabeled"] for _ in range(2))
    assert torch.equal(first["keys"], second["keys"])
    assert torch.equal(first["query"], second["query"])
    assert torch.equal(batch["unlabeled"]["image"], numbers(4))
    assert list(batch["unlabeled"]) == ["image"]


def test_views_take_no_gradient_and_other_streams_are_left_as_they_are():
    view = nn.Conv2d(1, 1, 1)
    labeled = {"image": numbers(2), "label": torch.zeros(2)}
    batch = {"labeled": labeled, "unlabeled": {"image": numbers(3)}}
    result = KeyViews(lambda images, generator: view(images), 2)(batch, seeded())
    assert not result["unlabeled"]["keys"].requires_grad
    assert result["labeled"] is labeled


def test_no_keys_are_refused():
    with pytest.raises(ValueError, match="`num_keys` must be at least 1, got 0"):
        KeyViews(Compose([]), 0)


# ---- crops -----------------------------------------------------------------------------------------------------------


def test_a_crop_keeps_shape_and_range(images):
    before = images.clone()
    result = ResizedCrop()(images, seeded())
    assert result.shape == images.shape
    assert images.min() - 1e-6 <= result.min() and result.max() <= images.max() + 1e-6
    assert torch.equal(images, before)
    assert torch.equal(result, ResizedCrop()(images, seeded()))
    assert not torch.equal(result, ResizedCrop()(images, seeded(1)))


def test_a_crop_of_everything_is_the_image(images):
    torch.testing.assert_close(ResizedCrop(share=1.0, aspect=1.0)(images, seeded()), images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 24), (16, 20, 12)])
def test_an_affine_map_in_the_same_resampling_is_the_one_after_the_other(size):
    """On images of their own coordinates, of which interpolation loses nothing, and away from the border."""
    affine = Affine(rotate=10, shift=0.05, scale=0.1, flip=[0])
    axes = torch.meshgrid(*[(torch.arange(n) + 0.5) / n for n in size], indexing="ij")
    images = torch.stack(axes).expand(20, len(size), *size).contiguous()
    generator = seeded()
    expected = affine(ResizedCrop(0.3)(images, generator), generator)
    found = ResizedCrop(0.3, affine=affine)(images, seeded())
    middle = (..., *(slice(n // 4, n - n // 4) for n in size))
    torch.testing.assert_close(found[middle], expected[middle], rtol=0, atol=1e-5)
    assert not torch.allclose(found, ResizedCrop(0.3)(images, seeded()), atol=1e-2)


def test_an_affine_map_shows_what_is_beyond_the_box():
    images = torch.arange(32.0).div(32).expand(8, 1, 32, 32).contiguous()
    inside, beyond = (ResizedCrop(0.2, affine=affine)(images, seeded()) for affine in (None, Affine(scale=0.9)))
    widths = [crops.amax((1, 2, 3)) - crops.amin((1, 2, 3)) for crops in (inside, beyond)]
    assert (widths[1] > 1.1 * widths[0]).any()


@pytest.mark.parametrize("size", [(32, 32), (20, 16, 12)])
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_boxes_lie_inside_and_have_the_shares_and_sides_that_were_asked_for(size, share):
    """Images of their own coordinates show where a box was cut: values stretch from one edge of it to the other."""
    dims, count = len(size), 400
    coordinates = torch.stack(torch.meshgrid(*[(torch.arange(n) + 0.5) / n for n in size], indexing="ij")).expand(
        count, dims, *size
    )
    crops = ResizedCrop(share, aspect=4 / 3)(coordinates.contiguous(), seeded())
    middle = [n // 2 for n in size]
    sides = []
    for axis, length in enumerate(size):
        index = [slice(None), axis, *middle]
        index[2 + axis] = slice(length // 2 - 1, length // 2 + 1)
        steps = crops[tuple(index)].diff(dim=1).squeeze(1)
        sides.append(steps * length)
    sides = torch.stack(sides, dim=1)
    area = sides.prod(dim=1)
    assert sides.min() > 0 and sides.max() <= 1 + 1e-4
    assert (area.max() <= 1 + 1e-4).item()
    assert share * 0.7 < area.min() < share + 0.1  # a side is cut at the image's, which takes from the area
    assert (sides.amax(dim=1) / sides.amin(dim=1)).max() <= 4 / 3 + 1e-3
    assert area.std() > 0.05 * (1 - share)
    assert crops.min() >= 0 and crops.max() <= 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"share": 0.0}, r"`share` of the image must be in \(0, 1\], got 0.0"), ({"aspect": 0.5}, "at least 1, got 0.5")],
)
def test_values_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        ResizedCrop(**arguments)
