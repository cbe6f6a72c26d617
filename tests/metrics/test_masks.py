"""Overlap and distances of masks: by hand, against other libraries, and of what is empty or unknown."""

import itertools
import json
import warnings

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy.ndimage import gaussian_filter

from medssl_monai.metrics import CaseScores, case_scores, evaluate_masks, mask_metrics
from medssl_monai.metrics.bootstrap import mean_intervals

SPACINGS = {(40, 30): (0.5, 2.0), (14, 12, 10): (1.0, 0.75, 3.0)}


def blobs(shape, seed, classes=2, cases=1):
    """Smooth masks of classes 0 to K - 1."""
    noise = np.random.default_rng(seed).normal(size=(cases, *shape))
    smooth = gaussian_filter(noise, (0, *[2] * len(shape)))
    edges = np.quantile(smooth, np.linspace(0.5, 1, classes)[:-1])
    return torch.from_numpy(np.digitize(smooth, edges))


def slow_scores(found, there, known, spacing):
    """Dice and distances of two boolean masks, voxel by voxel."""
    shape = found.shape

    def surface(mask):
        points = []
        for place in itertools.product(*map(range, shape)):
            if not mask[place]:
                continue
            for axis, step in itertools.product(range(len(shape)), (-1, 1)):
                near = tuple(p + step * (a == axis) for a, p in enumerate(place))
                inside = all(0 <= p < n for p, n in zip(near, shape, strict=True))
                if not inside or (known[near] and not mask[near]):
                    points.append([p * s for p, s in zip(place, spacing, strict=True)])
                    break
        return np.array(points)

    found, there = found & known, there & known
    first, second = surface(found), surface(there)
    between = np.sqrt(((first[:, None] - second[None]) ** 2).sum(axis=2))
    forth, back = between.min(axis=1), between.min(axis=0)
    hd95 = max(np.percentile(forth, 95), np.percentile(back, 95))
    dice = 2 * (found & there).sum() / (found.sum() + there.sum())
    return dice, hd95, (forth.sum() + back.sum()) / (len(forth) + len(back))


@pytest.mark.parametrize("shape", SPACINGS)
@pytest.mark.parametrize("hidden", [False, True])
def test_equal_to_a_slow_loop(shape, hidden):
    predicted, target = blobs(shape, 0, 3, cases=2), blobs(shape, 1, 3, cases=2)
    if hidden:  # a border, a slice and single voxels that nobody labeled
        target[:, :3], target[:, :, 6] = -1, -1
        target[torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.05] = -1
    scores = case_scores(predicted, target, 3, SPACINGS[shape])
    for b, k in itertools.product(range(2), range(2)):
        masks = (predicted[b] == k + 1).numpy(), (target[b] == k + 1).numpy(), (target[b] >= 0).numpy()
        expected = slow_scores(*masks, SPACINGS[shape])
        assert (scores.dice[b, k], scores.hd95[b, k], scores.asd[b, k]) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # within MONAI 1.6
@pytest.mark.parametrize("shape", SPACINGS)
def test_where_all_is_known_distances_are_those_of_monai(shape):
    predicted, target = blobs(shape, 2, cases=3), blobs(shape, 3, cases=3)
    both = [torch.stack([mask == 0, mask == 1], dim=1) for mask in (predicted, target)]
    scores = case_scores(predicted, target, 2, SPACINGS[shape])
    spacing = list(SPACINGS[shape])
    hd95 = compute_hausdorff_distance(*both, percentile=95, spacing=spacing)
    asd = compute_average_surface_distance(*both, symmetric=True, spacing=spacing)
    np.testing.assert_allclose(scores.hd95, hd95.numpy(), rtol=1e-5)
    np.testing.assert_allclose(scores.asd, asd.numpy(), rtol=1e-5)


def test_overlap_and_distances_by_simpleitk():
    """From its contours and distance maps; its contours have no voxel at the border of the image."""
    predicted, target = torch.zeros(2, 1, 30, 30, 20, dtype=torch.long)
    predicted[:, 1:-1, 1:-1, 1:-1], target[:, 1:-1, 1:-1, 1:-1] = blobs((28, 28, 18), 4), blobs((28, 28, 18), 5)
    images = [sitk.GetImageFromArray(mask[0].numpy().astype(np.uint8)) for mask in (predicted, target)]
    for image in images:
        image.SetSpacing((3.0, 1.0, 0.5))  # x is the last axis there
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    scores = case_scores(predicted, target, 2, (0.5, 1.0, 3.0))
    assert scores.dice[0, 0] == pytest.approx(overlap.GetDiceCoefficient())
    contours = [sitk.LabelContour(image) for image in images]
    directed = []
    for mine, other in (contours, contours[::-1]):
        far = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(other, squaredDistance=False, useImageSpacing=True))
        directed.append(np.abs(far)[sitk.GetArrayFromImage(mine) > 0])
    assert scores.asd[0, 0] == pytest.approx(np.concatenate(directed).mean(), rel=1e-5)
    assert scores.hd95[0, 0] == pytest.approx(max(np.percentile(values, 95) for values in directed), rel=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])
def test_a_box_that_is_shifted(spacing):
    """By two voxels along one axis: the sides that face it are that far away, the others partly at 0."""
    for axis in range(3):
        there, found = torch.zeros(2, 1, 20, 20, 20, dtype=torch.long)
        there[0, 5:13, 5:13, 5:13] = 1
        found[:] = there.roll(2, dims=axis + 1)
        scores = case_scores(found, there, 2, spacing)
        assert scores.dice[0, 0] == pytest.approx(6 / 8)
        assert scores.hd95[0, 0] == pytest.approx(2 * spacing[axis])
        assert 0 < scores.asd[0, 0] < 2 * spacing[axis]


def test_spheres_of_one_center():
    """Radii of 12 and 9 mm on an anisotropic grid: the surfaces are 3 mm apart, give or take a voxel."""
    spacing = np.array([0.5, 0.5, 0.75])
    grid = np.stack(np.meshgrid(*(np.arange(-14, 14, s) for s in spacing), indexing="ij"))
    radius = torch.from_numpy(np.sqrt((grid**2).sum(axis=0)))[None]
    scores = case_scores((radius < 12).long(), (radius < 9).long(), 2, spacing.tolist())
    assert scores.dice[0, 0] == pytest.approx(2 * 9**3 / (12**3 + 9**3), rel=0.01)
    assert scores.asd[0, 0] == pytest.approx(3.0, abs=0.2)
    assert scores.hd95[0, 0] == pytest.approx(3.0, abs=0.75)


def test_without_spacing_distances_are_in_voxels():
    there, found = torch.zeros(2, 1, 9, 9, dtype=torch.long)
    there[0, 4, 1], found[0, 4, 6] = 1, 1
    assert case_scores(found, there, 2).hd95.item() == 5.0
    assert case_scores(found, there, 2, (1.0, 0.3)).asd.item() == pytest.approx(1.5)


def test_slices_that_nobody_labeled_move_no_figure():
    """Else each voxel of a single labeled slice would be surface, and nearly all distances 0."""
    predicted, target = blobs((1, 30, 30), 7), blobs((1, 30, 30), 8)
    flat = case_scores(predicted[:, 0], target[:, 0], 2, (1.0, 1.0))
    volume = torch.full((1, 5, 30, 30), -1)
    volume[:, 2] = target[:, 0]
    among = case_scores(predicted.expand(-1, 5, -1, -1), volume, 2, (9.0, 1.0, 1.0))
    for name in ("dice", "hd95", "asd"):
        np.testing.assert_allclose(getattr(among, name), getattr(flat, name))


def test_predictions_where_nothing_is_known_change_nothing():
    predicted, target = blobs((20, 20), 9, 3), blobs((20, 20), 10, 3)
    target[:, :, :7] = -1
    other = torch.where(target == -1, 2 - predicted, predicted)
    assert not torch.equal(other, predicted)
    for first, second in zip(vars(case_scores(predicted, target, 3)).values(),
                             vars(case_scores(other, target, 3)).values(), strict=True):  # fmt: skip
        np.testing.assert_array_equal(first, second)


def four_cases():
    """Two classes; found and there, neither, missed, predicted in vain; a fifth of which nothing is known."""
    empty, square = torch.zeros(2, 6, 6, dtype=torch.long)
    square[1:4, 1:4] = 1
    found, there = (
        torch.stack([square, empty, empty, square, square]),
        torch.stack([square, empty, square, empty, empty]),
    )
    there[4] = -1
    return case_scores(found, there, 2, (1.0, 1.0))


def test_empty_masks_are_defined():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = four_cases()
    assert scores.dice[:4, 0].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert np.isnan(scores.dice[4, 0])
    assert scores.hd95[0, 0] == scores.asd[0, 0] == 0.0
    assert np.isnan(scores.hd95[1:]).all() and np.isnan(scores.asd[1:]).all()
    assert scores.known.tolist() == [True] * 4 + [False]
    empty = torch.zeros(1, 4, 4, dtype=torch.long)
    assert case_scores(empty, empty, 2, empty=0.0).dice.item() == 0.0
    assert np.isnan(case_scores(empty, empty, 2, empty=np.nan).dice.item())


def test_what_was_missed_and_predicted_in_vain_is_counted():
    figures = evaluate_masks(four_cases(), ["a", "a", "b", "c", "d"], ["background", "lesion"])
    assert (figures["n"], figures["groups"], figures["unit"]) == (4, 3, "mm")
    assert figures["metrics"]["dice"]["value"] == 0.5
    assert figures["metrics"]["hd95"] == {"value": 0.0}  # no interval: the group that defines it is often not drawn
    assert figures["per_class"] == {
        "lesion": {"n": 2, "absent": 1, "missed": 1, "spurious": 1, "dice": 0.5, "hd95": 0.0, "asd": 0.0}
    }
    assert figures["undefined"] == {"distances of lesion in 2 of 3 cases": "missed in 1, predicted in vain in 1"}
    json.dumps(figures, allow_nan=False)


def test_a_mask_whose_whole_surface_is_unknown_has_no_distance_and_is_counted():
    target = torch.full((1, 5, 5), -1)
    target[0, 2, 2] = 1
    values, undefined = mask_metrics(case_scores(torch.ones(1, 5, 5, dtype=torch.long), target, 2))
    assert values["dice"].tolist() == [1.0]
    assert undefined["hd95"] == "no case has two surfaces to measure between"
    assert undefined["distances of class 1 in 1 of 1 cases"] == "without a surface in 1"


def test_the_mean_is_over_classes_then_cases_and_several_classes_have_figures_of_their_own():
    there = torch.tensor([[[1, 1, 2, 2, 0, 0]], [[1, 1, 0, 0, 0, 0]]])
    found = torch.tensor([[[1, 1, 2, 0, 0, 0]], [[1, 0, 0, 0, 0, 0]]])
    figures = evaluate_masks(case_scores(found, there, 3), ["a", "b"], ["background", "anterior", "posterior"])
    values = {name: metric["value"] for name, metric in figures["metrics"].items()}
    assert values["dice"] == pytest.approx(((1 + 2 / 3) / 2 + (2 / 3 + 1) / 2) / 2)
    assert values["dice of anterior"] == pytest.approx((1 + 2 / 3) / 2)
    assert values["dice of posterior"] == pytest.approx((2 / 3 + 1) / 2)
    # distances: 0 and, of the posterior part, 0 from found and 0, 1 to it; of the anterior part of the second, likewise
    assert values["hd95 of posterior"] == pytest.approx(0.95)
    assert values["hd95"] == pytest.approx(((0 + 0.95) / 2 + 0.95) / 2)
    assert values["asd"] == pytest.approx(((0 + 1 / 3) / 2 + 1 / 3) / 2)
    assert figures["per_class"]["posterior"]["n"] == 1
    assert figures["per_class"]["posterior"]["absent"] == 1


def test_a_class_that_is_nowhere_is_defined():
    there = torch.tensor([[[1, 1, 0]]])
    figures = evaluate_masks(case_scores(there, there, 3), ["a"], ["background", "lesion", "hair"])
    assert figures["per_class"]["hair"] == {"n": 0, "absent": 1, "missed": 0, "spurious": 0, "dice": 1.0}
    assert figures["metrics"]["dice"] == {"value": 1.0}  # one case has no interval
    assert figures["undefined"]["hd95 of hair"] == "no case has two surfaces to measure between"
    json.dumps(figures, allow_nan=False)


def test_no_case_and_no_known_voxel_define_nothing():
    none = evaluate_masks(case_scores(torch.zeros(0, 4, 4), torch.zeros(0, 4, 4, dtype=torch.long), 2), [])
    assert (none["n"], none["metrics"]) == (0, {})
    assert none["undefined"] == dict.fromkeys(("dice", "hd95", "asd"), "there is no case")
    unknown = evaluate_masks(case_scores(torch.zeros(1, 4, 4), torch.full((1, 4, 4), -1), 2), ["a"])
    assert (unknown["n"], unknown["groups"], unknown["metrics"]) == (0, 0, {})
    assert unknown["undefined"] == dict.fromkeys(("dice", "hd95", "asd"), "no voxel is labeled")


def slow_interval(values, group, resamples, seed):
    """Resamples of groups, one after the other, cases copied."""
    names = sorted(set(group))
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    means = []
    for draw in draws:
        drawn = [v for n, name in zip(draw, names, strict=True) for g, v in zip(group, values, strict=True)
                 for _ in range(n) if g == name and np.isfinite(v)]  # fmt: skip
        means.append(np.mean(drawn))
    return np.quantile(means, [0.025, 0.975])


def test_intervals_against_slow_resampling_of_patients():
    rng = np.random.default_rng(0)
    values = rng.random((40, 2))
    values[::7, 1] = np.nan
    group = [f"patient {i}" for i in rng.integers(0, 12, 40)]
    found = mean_intervals(values, group, resamples=200, seed=3)
    for column, bounds in zip(values.T, found, strict=True):
        assert bounds == pytest.approx(slow_interval(column, group, 200, 3))


def test_intervals_are_in_the_figures_and_of_equal_cases_have_no_width():
    masks = blobs((12, 12), 11, cases=6)
    scores = case_scores(masks, masks, 2)
    figures = evaluate_masks(scores, list("aabbcc"), resamples=50)
    assert figures["metrics"]["dice"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert figures["interval"] == "95 % group bootstrap, 50 resamples, seed 0"


def test_batches_join():
    predicted, target = blobs((12, 12), 12, cases=5), blobs((12, 12), 13, cases=5)
    parts = [case_scores(predicted[part], target[part], 2) for part in (slice(0, 2), slice(2, 5))]
    for first, second in zip(vars(CaseScores.join(parts)).values(),
                             vars(case_scores(predicted, target, 2)).values(), strict=True):  # fmt: skip
        np.testing.assert_array_equal(first, second)


def test_what_does_not_fit_is_refused():
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"predictions \(1, 4, 4\) and masks \(1, 4, 5\) must have one shape"):
        case_scores(mask, torch.zeros(1, 4, 5, dtype=torch.long), 2)
    for spacing in ([1.0], [1.0, 0.0], [1.0, 1.0, 1.0]):
        with pytest.raises(ValueError, match=r"`spacing` needs a positive number for each of 2 axes"):
            case_scores(mask, mask, 2, spacing)
    with pytest.raises(ValueError, match=r"the masks hold 0 to 3; classes are 0 to 1"):
        case_scores(mask, torch.tensor([[[0, 3]]]).expand(1, 4, 2).repeat(1, 1, 2), 2)
    with pytest.raises(
        ValueError, match=r"the masks have 2 classes with the background, but there are 1: \['lesion'\]"
    ):
        evaluate_masks(case_scores(mask, mask, 2), ["a"], ["lesion"])
    with pytest.raises(ValueError, match=r"`group` must name the group of each of 1 samples, got 2"):
        evaluate_masks(case_scores(mask, mask, 2), ["a", "b"])
