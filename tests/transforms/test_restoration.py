"""Distortions whose undoing pre-trains a network."""

import numpy as np
import pytest
import torch

from medssl_monai.transforms import (
    BezierIntensity,
    InPainting,
    LocalShuffle,
    OutPainting,
    RestorationViews,
    Views,
    restoration,
)
from medssl_monai.transforms.restoration import _boxes, _where, bezier_curve, bezier_intensity

SHAPES = {"2-D": (8, 1, 42, 35), "2-D, colour": (8, 3, 35, 42), "3-D": (8, 1, 28, 21, 35)}
OPERATIONS = {
    "shuffle": LocalShuffle(0.2),
    "intensity": BezierIntensity(),
    "in-painting": InPainting(),
    "out-painting": OutPainting(),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def in_unit_range(images):
    return images.min() >= 0 and images.max() <= 1


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def images(request):
    return torch.rand(request.param, generator=seeded(5))


@pytest.fixture(params=OPERATIONS.values(), ids=OPERATIONS)
def operation(request):
    return request.param


# ---- every operation -------------------------------------------------------------------------------------------------


def test_shape_and_range_are_kept_and_the_input_is_left_alone(operation, images):
    before = images.clone()
    result = operation(images, seeded())
    assert result.shape == images.shape and result.dtype == torch.float32
    assert in_unit_range(result)
    assert torch.equal(images, before)
    assert not torch.equal(result, images)


def test_same_generator_same_result_and_every_image_for_itself(operation, images):
    assert torch.equal(operation(images, seeded()), operation(images, seeded()))
    assert not torch.equal(operation(images, seeded()), operation(images, seeded(1)))
    equal = images[:1].expand_as(images)
    results = operation(equal, seeded())
    changed = [result for result in results if not torch.equal(result, images[0])]
    assert len(torch.stack(changed).flatten(1).unique(dim=0)) == len(changed) >= 6


@pytest.mark.parametrize("size", [(1, 1), (5, 64), (3, 4, 2)])
def test_tiny_images_and_thin_axes_pass(operation, size):
    images = torch.rand(4, 1, *size, generator=seeded())
    result = operation(images, seeded(1))
    assert result.shape == images.shape
    assert result.isfinite().all()


# ---- local shuffling -------------------------------------------------------------------------------------------------


def windows_of(size, seed=0, count=6, share=0.3):
    """The windows of images of `size`, as slices, found with images of their own coordinates."""
    windows, within = LocalShuffle(share)._windows(torch.zeros(count, 1, *size), seeded(seed))
    return windows.view(count, *size), within.view(count, *size)


@pytest.mark.parametrize("size", [(20, 30), (10, 16, 20)])
def test_windows_are_boxes_that_cover_every_pixel_once(size):
    windows, within = windows_of(size)
    total = torch.Size(size).numel()
    sides = [set() for _ in size]
    for number, places in zip(windows, within, strict=True):
        before = 0
        for window in number.unique():  # their numbers are the pixels of earlier ones
            where = (number == window).nonzero()
            low, high = where.amin(0), where.amax(0) + 1
            assert (high - low).prod() == len(where)  # a box without holes
            assert window == before
            before += len(where)
            assert places[number == window].tolist() == list(range(len(where)))  # row by row
            for axis, (start, end) in enumerate(zip(low, high, strict=True)):
                sides[axis].add(int(end - start))
        assert before == total
    for axis, length in enumerate(size):
        assert sides[axis] == set(range(1, int(0.3 * length) + 1))


def test_the_histogram_of_every_single_window_is_kept(images):
    """Card, check 9; also when channels are looked at together."""
    operation = LocalShuffle(0.2)
    windows, _ = operation._windows(images, seeded(3))
    result = operation(images, seeded(3))  # cuts are drawn first
    for number, before, after in zip(windows, images.flatten(2), result.flatten(2), strict=True):
        for window in number.unique():
            old, new = (pixels[:, number == window].T.tolist() for pixels in (before, after))
            assert sorted(old) == sorted(new)


def test_pixels_of_a_window_take_every_order_alike():
    """Three pixels have six orders."""
    images = torch.arange(3.0).view(1, 1, 1, 3).expand(6000, 1, 1, 3)
    operation = LocalShuffle(1.0)
    windows, _ = operation._windows(images, seeded())
    result = operation(images, seeded())[:, 0, 0]
    whole = result[(windows == 0).all(dim=1)]
    orders, counts = whole.unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert ((counts / len(whole) - 1 / 6).abs() < 0.03).all()
    assert 0.28 < len(whole) / len(images) < 0.39  # one length of three


def test_windows_of_one_pixel_change_nothing():
    images = torch.rand(2, 1, 9, 9)
    assert torch.equal(LocalShuffle(0.1)(images, seeded()), images)


def test_pixels_stay_near():
    """No further than the largest window."""
    rows = torch.arange(60.0).view(1, 1, 60, 1).expand(3, 1, 60, 40) / 60
    moved = (LocalShuffle(0.1)(rows, seeded()) - rows).abs() * 60
    assert 4 < moved.max() <= 5 + 1e-3


@pytest.mark.parametrize("size", [0.0, 1.1])
def test_a_share_out_of_range_is_refused(size):
    with pytest.raises(ValueError, match=rf"`size` is a share of the image's side and must be in \(0, 1\], got {size}"):
        LocalShuffle(size)


# ---- intensity -------------------------------------------------------------------------------------------------------


def curve(*inner):
    return torch.tensor([[0.0, 0.0], *inner, [1.0, 1.0]], dtype=torch.float64)


CURVES = torch.stack(
    [
        curve([1 / 3, 1 / 3], [2 / 3, 2 / 3]),
        curve([0.9, 0.1], [0.2, 0.3]),
        curve([0.0, 1.0], [1.0, 0.0]),
        curve([1.0, 1.0], [1.0, 1.0]),
        curve([0.4, 0.6], [0.9, 0.95]),
    ]
)


def test_a_curve_runs_from_the_last_control_point_to_the_first():
    points = bezier_curve(CURVES, 5)
    assert (points[:, 0] == 1).all() and (points[:, -1] == 0).all()
    torch.testing.assert_close(points[:, 2], (CURVES * torch.tensor([1, 3, 3, 1])[:, None] / 8).sum(1))
    torch.testing.assert_close(points[0, :, 0], torch.linspace(1, 0, 5, dtype=torch.float64))


@pytest.mark.parametrize("inverting", [False, True])
def test_grey_values_are_interpolated_as_numpy_does(inverting):
    images = torch.rand(len(CURVES), 2, 6, 7, dtype=torch.float64, generator=seeded())
    images[:, 0, 0, :2] = torch.tensor([0.0, 1.0])
    flags = torch.full((len(CURVES),), inverting)
    result = bezier_intensity(images, CURVES, flags, samples=50)
    for image, found, points in zip(images, result, bezier_curve(CURVES, 50), strict=True):
        x, y = points.T.numpy()
        expected = np.interp(image, np.sort(x), y if inverting else np.sort(y))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_an_increasing_map_rises_from_0_to_1_whatever_the_curve():
    """Card, check 8."""
    ramp = torch.linspace(0, 1, 500, dtype=torch.float64).expand(len(CURVES), 1, 1, 500)
    result = bezier_intensity(ramp, CURVES, torch.zeros(len(CURVES), dtype=torch.bool)).flatten(1)
    assert (result.diff(dim=1) >= 0).all()
    torch.testing.assert_close(result[:, 0], torch.zeros(len(CURVES), dtype=torch.float64))
    torch.testing.assert_close(result[:, -1], torch.ones(len(CURVES), dtype=torch.float64))


def test_an_inverting_map_falls_from_1_to_0():
    """Steadily, whatever the curve: with control points in [0, 1] none turns back."""
    ramp = torch.linspace(0, 1, 500, dtype=torch.float64).expand(len(CURVES), 1, 1, 500)
    result = bezier_intensity(ramp, CURVES, torch.ones(len(CURVES), dtype=torch.bool)).flatten(1)
    assert (result.diff(dim=1) <= 1e-12).all()
    torch.testing.assert_close(result[:, 0], torch.ones(len(CURVES), dtype=torch.float64))
    torch.testing.assert_close(result[:, -1], torch.zeros(len(CURVES), dtype=torch.float64))
    torch.testing.assert_close(result[0], 1 - ramp[0].flatten())  # the straight curve gives the negative


def test_coinciding_samples_give_no_nan():
    points = torch.tensor([[[0.0, 0.0], [0.0, 0.5], [1.0, 0.5], [1.0, 1.0]]])
    images = torch.tensor([0.0, 1e-8, 0.5, 1 - 6e-8, 1.0]).view(1, 1, 1, 5)
    for inverting in (False, True):
        assert bezier_intensity(images, points, torch.tensor([inverting]), 100_000).isfinite().all()


def test_half_of_the_maps_are_inverting():
    ends = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(2000, 1, 1, 2)
    result = BezierIntensity()(ends, seeded())[:, 0, 0]
    torch.testing.assert_close(result.sum(dim=1), torch.ones(2000))
    assert ((result < 1e-6) | (result > 1 - 1e-6)).all()
    assert 0.46 < result[:, 0].mean() < 0.54


# ---- painting --------------------------------------------------------------------------------------------------------


def sides_of(mask):
    """Lengths of the projections of a box."""
    where = mask.nonzero()
    return (where.amax(0) - where.amin(0) + 1).tolist() if len(where) else []


def painted(operation, size, count=400, seed=0):
    """Which pixels are noise; images are constant, which noise never is."""
    images = torch.full((count, 1, *size), 0.5)
    result = operation(images, seeded(seed))
    return (result != images)[:, 0], result


@pytest.mark.parametrize("size", [(42, 60), (42, 36, 24)])
def test_in_painting_leaves_all_but_some_boxes(size):
    """Card, check 9: the area, the border, and the rest untouched."""
    noisy, result = painted(InPainting(), size)
    assert result[noisy.unsqueeze(1)].std() > 0.25  # uniform: 0.289
    for axis, length in enumerate(size):
        along = noisy.movedim(axis + 1, 1).flatten(2).any(dim=2)
        assert not along[:, :3].any() and not along[:, length - 3 :].any()
    share = noisy.flatten(1).float().mean(1)
    low, high = (np.prod([n // part for n in size]) / np.prod(size) for part in (6, 3))
    some = share[share > 0]
    assert some.min() >= low - 1e-6
    assert some.max() <= 5 * high + 1e-6
    assert 0.02 < (share == 0).float().mean() < 0.09  # 0.05 have no box at all


@pytest.mark.parametrize("size", [(42, 63), (42, 35, 28)])
def test_out_painting_leaves_one_to_five_boxes(size):
    noisy, result = painted(OutPainting(), size)
    kept = ~noisy
    assert result[noisy.unsqueeze(1)].std() > 0.25
    assert noisy[:, :3].all() and noisy[:, -3:].all() and noisy[:, :, :3].all() and noisy[:, :, -3:].all()
    share = kept.flatten(1).float().mean(1)
    low = np.prod([n - 4 * n // 7 for n in size]) / np.prod(size)
    high = np.prod([n - 6 for n in size]) / np.prod(size)
    assert low - 1e-6 <= share.min() and share.max() <= high
    for mask in kept[:50]:
        for axis, side in enumerate(sides_of(mask)):
            assert size[axis] - 4 * size[axis] // 7 <= side <= size[axis] - 6


@pytest.mark.parametrize(("operation", "low", "high"), [(InPainting(), 14, 28), (OutPainting(), 36, 48)])
def test_sides_of_a_box_are_those_of_the_card(monkeypatch, operation, low, high):
    one = lambda images, sides, most, least, generator: _boxes(images, sides, 1, 1, generator)  # noqa: E731
    monkeypatch.setattr(restoration, "_boxes", one)
    noisy, _ = painted(operation, (84, 84), 1000)
    masks = noisy if isinstance(operation, InPainting) else ~noisy
    sides = [sides_of(mask) for mask in masks]
    assert all(mask.sum() == np.prod(side) for mask, side in zip(masks, sides, strict=True))
    assert {side for pair in sides for side in pair} == set(range(low, high + 1))
    assert {int(mask.any(1).nonzero()[0]) for mask in masks} >= {3, 10, 20, 30, 84 - 3 - high}


def test_numbers_of_boxes():
    """None 0.05, and five 0.95^5 for in-painting; out-painting has one for sure."""
    images = torch.zeros(4000, 1, 60, 60)
    for least in (0, 1):
        covered = _boxes(images, lambda length: (1, 1), 5, least, seeded()).flatten(1).sum(1).float()
        assert covered.max() == 5 and covered.min() == least
        assert (covered == least).float().mean() == pytest.approx(0.05, abs=0.012)
        mean = least + sum(0.95**further for further in range(1, 6 - least))
        assert covered.mean() == pytest.approx(mean, abs=0.06)


def test_noise_of_colours_differs():
    images = torch.zeros(2, 3, 30, 30)
    result = OutPainting()(images, seeded())
    noisy = result[:, 0] > 0
    assert not torch.equal(result[:, 0][noisy], result[:, 1][noisy])


# ---- views -----------------------------------------------------------------------------------------------------------


def views(**kwargs):
    return RestorationViews(**{"flip": 0.0, "shuffle": 0.0, "intensity": 0.0, "painting": 0.0, **kwargs})


def test_views_hold_the_image_and_its_distortion(images):
    labeled = {"image": images[:2], "label": torch.zeros(2)}
    batch = {"labeled": labeled, "unlabeled": {"image": images, "index": torch.arange(len(images))}}
    before = images.clone()
    result = RestorationViews()(batch, seeded())
    assert result["labeled"] is labeled
    unlabeled = result["unlabeled"]
    assert unlabeled.keys() == {"image", "distorted", "index"}
    assert unlabeled["image"].shape == unlabeled["distorted"].shape == images.shape
    assert in_unit_range(unlabeled["distorted"])
    assert torch.equal(images, before)
    again = RestorationViews()(batch, seeded())["unlabeled"]
    assert torch.equal(again["distorted"], unlabeled["distorted"])


def test_without_any_distortion_both_are_the_image(images):
    result = views()({"unlabeled": {"image": images}}, seeded())["unlabeled"]
    assert torch.equal(result["image"], images)
    assert torch.equal(result["distorted"], images)


def test_flips_are_those_of_the_target_too(images):
    result = views(flip=1.0)({"unlabeled": {"image": images}}, seeded())["unlabeled"]
    assert torch.equal(result["image"], result["distorted"])
    axes = range(2, images.ndim)
    flips = [[a for k, a in enumerate(axes) if bits >> k & 1] for bits in range(2 ** len(axes))]
    seen = set()
    for before, after in zip(images, result["image"], strict=True):
        found = [tuple(f) for f in flips if torch.equal(before.flip([a - 1 for a in f]), after)]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) > 1


def test_flips_as_often_as_the_card_says():
    """Up to three, going on with 0.4, each along one of (C, H, W): an axis ends up flipped after an odd number."""
    images = torch.arange(4.0).view(1, 1, 2, 2).expand(20_000, 1, 2, 2) / 3
    result = RestorationViews(flip=0.4)({"unlabeled": {"image": images}}, seeded())["unlabeled"]["image"][:, 0]
    upside_down = (result[:, 0] > result[:, 1]).all(dim=1).float().mean()
    number = [0.6, 0.4 * 0.6, 0.16 * 0.6, 0.064]
    odd = sum(p * (1 - (1 - 2 / 3) ** n) / 2 for n, p in enumerate(number))
    assert upside_down == pytest.approx(odd, abs=0.01)


def test_distortions_as_often_as_they_are_asked_for():
    count, row = 3000, torch.linspace(0.2, 0.8, 24)
    batch = {"unlabeled": {"image": (row.view(1, 1, 1, 24) + 0.2 * row.view(1, 1, 24, 1)).expand(count, 1, 24, 24)}}
    border = (0, 0, 0)  # of the corner, which boxes spare: in-painting leaves it, out-painting does not

    def changed(**kwargs):
        result = views(**kwargs)(batch, seeded())["unlabeled"]
        different = result["distorted"] != result["image"]
        return different.flatten(1).any(1).float().mean(), different[(slice(None), *border)].float().mean()

    assert changed(shuffle=0.5)[0] == pytest.approx(0.5, abs=0.03)
    assert changed(intensity=0.9)[0] == pytest.approx(0.9, abs=0.02)
    anything, corner = changed(painting=0.9, outer=0.8)
    assert anything == pytest.approx(0.9 * (0.8 + 0.2 * 0.95), abs=0.02)
    assert corner == pytest.approx(0.9 * 0.8, abs=0.03)


def test_rows_and_whole_batches_are_drawn_alike():
    """Off the CPU nobody asks how many images drew an operation: all are distorted, and some results are kept."""
    images, flags = torch.rand(6, 1, 20, 20, generator=seeded()), torch.tensor([1, 0, 1, 1, 0, 0]).bool()

    class Elsewhere(torch.Tensor):
        @property
        def device(self):
            return torch.device("meta")

    def invert(x, generator):
        return 1.0 - x.as_subclass(torch.Tensor)

    by_row = _where(flags, invert, images, seeded())
    at_once = _where(flags, invert, images.as_subclass(Elsewhere), seeded())
    assert torch.equal(by_row, at_once.as_subclass(torch.Tensor))
    assert torch.equal(by_row[~flags], images[~flags])
    assert torch.equal(_where(torch.zeros(6).bool(), invert, images, seeded()), images)


def test_trap_4_both_stages_see_grey_values_of_one_scale():
    """The released code trains the segmentation on 0 to 255, and the restoration on 0 to 1."""
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=seeded())
    batch = {"labeled": {"image": images, "label": torch.zeros(4).long()}, "unlabeled": {"image": images}}
    restored = views()(batch, seeded())["unlabeled"]["image"]
    segmented = Views(lambda x, generator: x)(batch, seeded())
    assert torch.equal(restored, images / 255)
    assert torch.equal(restored, segmented["labeled"]["image"])
    assert torch.equal(restored, segmented["unlabeled"]["weak"])


@pytest.mark.parametrize("name", ["flip", "shuffle", "intensity", "painting", "outer"])
def test_probabilities_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=rf"`{name}` is a probability and must be in \[0, 1\], got 1.5"):
        RestorationViews(**{name: 1.5})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_views_on_the_device():
    images = torch.rand(4, 1, 32, 32, device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    result = RestorationViews()({"unlabeled": {"image": images}}, generator)["unlabeled"]
    assert result["distorted"].device == images.device
    assert in_unit_range(result["distorted"])
