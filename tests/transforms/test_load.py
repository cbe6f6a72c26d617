import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import GaussianSmooth

from medssl_monai.transforms.load import Channelsd, TakeSliced


@pytest.fixture
def volume():
    meta = {"spacing": (0.5, 1.0, 4.0), "original_channel_dim": 0}
    values = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    return MetaTensor(values, affine=torch.diag(torch.tensor([-0.5, -1.0, 4.0, 1.0])), meta=meta)


@pytest.mark.parametrize(("axis", "kept"), [(-1, [0, 1]), (2, [0, 1]), (0, [1, 2]), (1, [0, 2])])
def test_slice_is_taken_across_the_axis_with_its_spacing(volume, axis, kept):
    image = TakeSliced("image", axis=axis)({"image": volume, "slice": 2})["image"]
    assert isinstance(image, MetaTensor)
    assert torch.equal(image.as_tensor(), volume.as_tensor().select(1 + range(3)[axis], 2))
    spacing = [(0.5, 1.0, 4.0)[a] for a in kept]
    assert list(image.meta["spacing"]) == spacing
    assert image.affine.diagonal()[:2].tolist() == spacing
    assert image.spatial_ndim == 2
    assert GaussianSmooth(1.0)(image).shape == image.shape


def test_volume_is_left_as_it_was(volume):
    item = {"image": volume, "slice": 2}
    TakeSliced("image")(item)
    assert item["image"] is volume
    assert volume.meta["spacing"] == (0.5, 1.0, 4.0)
    assert volume.affine[0, 0] == -0.5


def test_plain_tensor_stays_plain(volume):
    image = TakeSliced("image")({"image": volume.as_tensor(), "slice": 0})["image"]
    assert type(image) is torch.Tensor
    assert image.shape == (2, 3, 4)


def test_image_passes_and_a_single_slice_is_squeezed(volume):
    image = torch.zeros(1, 3, 4)
    assert TakeSliced("image")({"image": image})["image"] is image
    assert TakeSliced("image")({"image": volume[..., :1]})["image"].shape == (2, 3, 4)


@pytest.mark.parametrize("index", [5, -1])
def test_slice_out_of_range_names_the_item(volume, index):
    with pytest.raises(ValueError, match=f"scan 7: 'slice' is {index}, but there are 5 slices"):
        TakeSliced("image")({"image": volume, "slice": index, "id": "scan 7"})


def test_deep_volume_without_an_index_says_what_to_add(volume):
    with pytest.raises(ValueError, match=r"scan 7: the volume has 5 slices .* add 'slice'"):
        TakeSliced("image")({"image": volume, "id": "scan 7"})


def colours(values):
    """As a reader marks them."""
    return MetaTensor(values, meta={"colour": True})


@pytest.mark.parametrize("given", [1, 3, 4])
@pytest.mark.parametrize("wanted", [1, 3])
def test_channels_are_settled_and_the_type_kept(given, wanted):
    image = colours(torch.rand(given, 4, 5))
    result = Channelsd("image", wanted)({"image": image})["image"]
    assert type(result) is MetaTensor
    assert result.shape == (wanted, 4, 5)
    if given == 1:
        assert torch.equal(torch.as_tensor(result), torch.as_tensor(image).expand(wanted, 4, 5))
    if given > 1 and wanted == 3:
        assert torch.equal(result, image[:3])


def test_luminance_of_grey_stored_as_colour_is_the_grey():
    grey = torch.arange(256.0).reshape(1, 16, 16)
    result = Channelsd("image", 1)({"image": colours(grey.repeat(3, 1, 1))})["image"]
    assert torch.allclose(result, grey, atol=1e-4)


def test_luminance_is_that_of_pillow():
    from PIL import Image

    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    result = Channelsd("image", 1)({"image": colours(torch.from_numpy(rgb).permute(2, 0, 1))})["image"]
    assert np.abs(result[0].numpy() - np.asarray(Image.fromarray(rgb).convert("L"))).max() <= 1


def test_affine_survives(volume):
    result = Channelsd("image", 3)({"image": volume[:1]})["image"]
    assert torch.equal(result.affine, volume.affine)


def test_channels_other_than_grey_and_colour_are_refused(volume):
    with pytest.raises(ValueError, match="scan 7: 'image' has 2 channels that are no colours, and 1 is wanted"):
        Channelsd("image", 1)({"image": volume, "id": "scan 7"})
    with pytest.raises(ValueError, match="has 2 channels"):
        Channelsd("image", 1)({"image": colours(torch.rand(2, 4, 5))})
    with pytest.raises(ValueError, match=r"must be 1 .* or 3 .*, got 2"):
        Channelsd("image", 2)


@pytest.mark.parametrize("image", [torch.rand(4, 3, 3, 3), MetaTensor(torch.rand(3, 3, 3), meta={"colour": False})])
@pytest.mark.parametrize("wanted", [1, 3])
def test_sequences_are_no_colours_however_many_they_are(image, wanted):
    with pytest.raises(ValueError, match=rf"scan 7: .* has {len(image)} channels that are no colours, and {wanted}"):
        Channelsd("image", wanted)({"image": image, "id": "scan 7"})


GREY = colours(torch.arange(12.0).reshape(1, 3, 4))
COLOUR = colours(torch.arange(36.0).reshape(3, 3, 4))


@pytest.mark.parametrize(
    ("image", "wanted", "message"),
    [
        (GREY, 3, "scan 7: 'image' is a grey image, and colour ones are wanted; .*`convert_channels: true`"),
        (GREY.repeat(3, 1, 1), 3, "is a grey image"),  # whatever it is stored as
        (COLOUR, 1, "scan 7: 'image' is a colour image, and grey ones are wanted"),
        (torch.cat([COLOUR, GREY]), 1, "is a colour image"),
    ],
)
def test_images_of_the_other_kind_are_refused_if_they_are_not_to_be_converted(image, wanted, message):
    with pytest.raises(ValueError, match=message):
        Channelsd("image", wanted, convert=False)({"image": image, "id": "scan 7"})


@pytest.mark.parametrize(
    ("image", "wanted"), [(GREY, 1), (GREY.repeat(3, 1, 1), 1), (COLOUR, 3), (torch.cat([COLOUR, GREY]), 3)]
)
def test_images_of_the_right_kind_are_the_same_with_and_without_conversion(image, wanted):
    results = [Channelsd("image", wanted, convert=convert)({"image": image})["image"] for convert in (False, True)]
    assert torch.equal(*results)
    assert results[0].shape == (wanted, 3, 4)
