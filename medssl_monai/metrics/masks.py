"""How good masks are: overlap and distances of each case and class, with intervals that respect patients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl_monai.metrics.bootstrap import Floats, mean_intervals
from medssl_monai.unknown import UNKNOWN

Bools = NDArray[np.bool_]
MaskMetric = Literal["dice", "hd95", "asd"]
Unit = Literal["mm", "pixels"]
MASK_METRICS: tuple[MaskMetric, ...] = ("dice", "hd95", "asd")


@dataclass(frozen=True)
class CaseScores:
    """Scores of N cases; all arrays but the last are ``(N, K - 1)``, a column per class without the background.

    Attributes:
        dice: overlap, in [0, 1]; NaN where undefined, as all scores.
        hd95: 95 % Hausdorff distance, in the unit of the spacing.
        asd: average symmetric surface distance, likewise.
        truth: whether the class is there, among the known voxels.
        predicted: whether it is predicted, there.
        known: whether anything is known of the case, ``(N,)``.
    """

    dice: Floats
    hd95: Floats
    asd: Floats
    truth: Bools
    predicted: Bools
    known: Bools

    def __len__(self) -> int:
        return len(self.known)

    @staticmethod
    def join(parts: Iterable[CaseScores]) -> CaseScores:
        """Cases of several batches as one."""
        parts = list(parts)
        return CaseScores(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(CaseScores)))


def case_scores(
    predicted: Tensor,
    target: Tensor,
    num_classes: int,
    spacing: Sequence[float] | None = None,
    distances: bool = True,
    empty: float = 1.0,
) -> CaseScores:
    """Dice, 95 % Hausdorff distance and average surface distance of each case and class but the background.

    Voxels that nobody labeled are in neither mask. Dice is ``2 |P & T| / (|P| + |T|)``. The surface of a mask are its
    voxels with a face neighbor that is known and not of the class, or outside of the image; where labels end, a mask
    is cut off and has no surface, so that slices that nobody labeled move no figure. Of the distances of each surface
    voxel to the other mask's surface, between centers, the Hausdorff distance is the greater of both directions' 95 %
    quantiles, and the average surface distance the mean over both.

    If the class is neither there nor predicted, Dice is `empty`; if it is one of these, Dice is 0. Distances are
    undefined in both events, since there is no surface to measure to; they are neither 0 nor infinite, and counted.

    Where all is known these are the values of MONAI's functions (``percentile=95``; ``symmetric=True``). They are not
    used, since they take the end of the labels for a surface, and warn of each empty mask.

    Args:
        predicted: classes ``(B, *spatial)``, whole numbers.
        target: likewise, -1 unknown; on the same device.
        num_classes: K.
        spacing: mm from voxel to voxel, one number per spatial axis; None: distances are in voxels.
        distances: False: overlap alone, on the device of the tensors; the distances are NaN then.
        empty: Dice of two empty masks; NaN leaves them out.

    Raises:
        ValueError: if shapes differ, a class is out of range, or `spacing` does not fit.
    """
    if predicted.shape != target.shape:
        raise ValueError(
            f"predictions {tuple(predicted.shape)} and masks {tuple(target.shape)} must have one shape, (B, *spatial)."
        )
    dims = target.ndim - 1
    scale = np.ones(dims) if spacing is None else np.asarray(spacing, dtype=np.float64)
    if scale.shape != (dims,) or not (scale > 0).all():
        raise ValueError(f"`spacing` needs a positive number for each of {dims} axes, got {spacing}.")
    if target.numel() and not UNKNOWN <= int(target.min()) <= int(target.max()) < num_classes:
        raise ValueError(
            f"the masks hold {int(target.min())} to {int(target.max())}; classes are 0 to {num_classes - 1}, and "
            f"{UNKNOWN} where nobody labeled."
        )
    known = target != UNKNOWN
    counts = torch.zeros((3, len(target), num_classes - 1), dtype=torch.long, device=target.device)
    for k in range(1, num_classes):
        found, there = (predicted == k) & known, target == k
        counts[:, :, k - 1] = torch.stack([found & there, found, there]).flatten(2).sum(dim=2)
    overlap, size_found, size_there = counts.cpu().numpy().astype(np.float64)
    sizes, any_known = size_found + size_there, known.flatten(1).any(dim=1).cpu().numpy()
    dice = np.where(sizes > 0, 2 * overlap / np.maximum(sizes, 1), empty)
    dice[~any_known] = np.nan

    hd95, asd = np.full((2, *dice.shape), np.nan)
    if distances:
        masks = [array.cpu().numpy() for array in (predicted, target, known)]
        for b, k in np.argwhere((size_found > 0) & (size_there > 0)).tolist():
            found, there, inside = masks[0][b] == k + 1, masks[1][b] == k + 1, masks[2][b]
            hd95[b, k], asd[b, k] = _distances(found & inside, there, inside, scale)
    return CaseScores(dice, hd95, asd, size_there > 0, size_found > 0, any_known)


def mask_metrics(
    scores: CaseScores, classes: Sequence[str] = (), metrics: Sequence[MaskMetric] = MASK_METRICS
) -> tuple[dict[str, Floats], dict[str, str]]:
    """Return what each metric is the mean of, and the reasons for those that these cases do not define.

    The first has, for each of `metrics`, the mean over the classes of each case (``"dice"``) and, if there are several
    besides the background, the values of each (``"dice of lesion"``): arrays ``(N,)``, NaN where undefined. A metric
    that no case defines is in the second. If distances are asked for, this also says of each class in how many of the
    cases that show it, or are predicted to, they are undefined, and why: ``"distances of lesion in 3 of 20 cases"``.

    Args:
        scores: of N cases.
        classes: K names, the background's first; empty: "class 0", "class 1", ...
        metrics: which.

    Raises:
        ValueError: if there are not K classes.
    """
    names = class_names(scores, classes)
    values: dict[str, Floats] = {}
    undefined: dict[str, str] = {}
    for metric in metrics:
        column: Floats = getattr(scores, metric)
        by_name: dict[str, Floats] = {metric: _mean(column, axis=1)}
        if len(names) > 1:
            by_name |= {f"{metric} of {name}": column[:, k] for k, name in enumerate(names)}
        for title, of in by_name.items():
            if np.isfinite(of).any():
                values[title] = of
            else:
                undefined[title] = _reason(scores, metric)
    for k, name in enumerate(names if {"hd95", "asd"} & set(metrics) else ()):
        either = scores.truth[:, k] | scores.predicted[:, k]
        missed, spurious = _failures(scores, k)
        if count := int((either & ~np.isfinite(scores.hd95[:, k])).sum()):
            reasons = {"missed": missed, "predicted in vain": spurious, "without a surface": count - missed - spurious}
            which = ", ".join(f"{reason} in {cases}" for reason, cases in reasons.items() if cases)
            undefined[f"distances of {name} in {count} of {int(either.sum())} cases"] = which
    return values, undefined


def evaluate_masks(
    scores: CaseScores,
    group: Sequence[str],
    classes: Sequence[str] = (),
    unit: Unit = "mm",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Means over cases with intervals, and the classes one by one, ready for JSON.

    A case counts once, with the mean over its classes, however large it is and however many of its voxels are known.
    Distances are means of what is defined: they say nothing of what was missed, so read them with the counts.

    Args:
        scores: of N cases, as from `case_scores`; those of which nothing is known are left out.
        group: whom each case belongs to, length N.
        classes: K names, the background's first; empty: "class 0", "class 1", ...
        unit: of the distances; ``pixels``, or voxels, if the spacing is not known.
        level: see `medssl_monai.metrics.bootstrap_intervals`.
        resamples: likewise.
        seed: likewise.

    Returns:
        As from `medssl_monai.metrics.evaluate_predictions`: ``n`` and ``groups`` (counts), ``metrics``,
        ``undefined`` (see `mask_metrics`) and ``interval``, and the ``unit``. ``per_class`` is ``{class: {"n",
        "absent", "missed", "spurious", "dice", "hd95", "asd"}}`` without the background: ``n`` cases that show the
        class, ``absent`` that neither show it nor are predicted to, ``missed`` of the ``n`` in which none of it is
        predicted, ``spurious`` in which it is predicted and is not there. Undefined values are left out.

    Raises:
        ValueError: as `medssl_monai.metrics.bootstrap_intervals`, or if there are not K classes.
    """
    values, undefined = mask_metrics(scores, classes)
    columns = np.stack([*values.values()], axis=1) if values else np.zeros((len(scores), 0))
    metrics: dict[str, dict[str, float]] = {}
    for (name, of), bounds in zip(values.items(), mean_intervals(columns, group, level, resamples, seed), strict=True):
        metrics[name] = {"value": float(_mean(of, axis=0))}
        if bounds is not None:
            metrics[name] |= {"low": bounds[0], "high": bounds[1]}
    per_class: dict[str, dict[str, float]] = {}
    for k, name in enumerate(class_names(scores, classes)):
        missed, spurious = _failures(scores, k)
        neither = scores.known & ~scores.truth[:, k] & ~scores.predicted[:, k]
        means = {metric: float(_mean(getattr(scores, metric)[:, k], axis=0)) for metric in MASK_METRICS}
        per_class[name] = {
            "n": int(scores.truth[:, k].sum()),
            "absent": int(neither.sum()),
            "missed": missed,
            "spurious": spurious,
            **{metric: value for metric, value in means.items() if np.isfinite(value)},
        }
    return {
        "n": int(scores.known.sum()),
        "groups": len({str(name) for name, known in zip(group, scores.known, strict=True) if known}),
        "unit": unit,
        "metrics": metrics,
        "undefined": undefined,
        "per_class": per_class,
        "interval": f"{100 * level:g} % group bootstrap, {resamples} resamples, seed {seed}",
    }


def case_rows(
    scores: CaseScores, ids: Sequence[str], classes: Sequence[str] = (), unit: Unit = "mm"
) -> list[list[object]]:
    """Return a table with a row for each case and each class but the background.

    Its columns are ``id``, ``class``, ``labeled`` and ``predicted`` (whether the class is there, in the mask and in the
    prediction), ``dice``, ``hd95`` and ``asd``, these with their unit; undefined values are empty.

    Args:
        scores: of N cases.
        ids: of the cases, in their order.
        classes: see `evaluate_masks`.
        unit: see `evaluate_masks`.
    """
    rows: list[list[object]] = [["id", "class", "labeled", "predicted", "dice", f"hd95_{unit}", f"asd_{unit}"]]
    for case, name in enumerate(ids):
        for k, of in enumerate(class_names(scores, classes)):
            found = [column[case, k] for column in (scores.dice, scores.hd95, scores.asd)]
            there = [int(scores.truth[case, k]), int(scores.predicted[case, k])]
            rows.append([name, of, *there, *(f"{value:.6g}" if np.isfinite(value) else "" for value in found)])
    return rows


def class_names(scores: CaseScores, classes: Sequence[str]) -> list[str]:
    """Names of the columns, without the background.

    Raises:
        ValueError: if there are not K classes.
    """
    columns = scores.dice.shape[1] + 1
    names = [str(name) for name in classes] or [f"class {k}" for k in range(columns)]
    if len(names) != columns:
        raise ValueError(f"the masks have {columns} classes with the background, but there are {len(names)}: {names}.")
    return names[1:]


def _distances(found: Bools, there: Bools, known: Bools, scale: Floats) -> tuple[float, float]:
    """95 % Hausdorff and average symmetric surface distance of two masks; NaN without a surface."""
    from scipy.spatial import KDTree

    corners = np.argwhere(found | there)
    box = tuple(
        slice(max(low - 1, 0), high + 2) for low, high in zip(corners.min(axis=0), corners.max(axis=0), strict=True)
    )
    surfaces = [np.argwhere(_surface(mask[box], known[box])) * scale for mask in (found, there)]
    if min(map(len, surfaces)) == 0:
        return np.nan, np.nan
    to_truth = KDTree(surfaces[1]).query(surfaces[0])[0]
    to_found = KDTree(surfaces[0]).query(surfaces[1])[0]
    hd95 = max(np.quantile(to_truth, 0.95), np.quantile(to_found, 0.95))
    return float(hd95), float(np.concatenate([to_truth, to_found]).mean())


def _surface(mask: Bools, known: Bools) -> Bools:
    from scipy.ndimage import binary_erosion

    surface: Bools = mask & ~binary_erosion(mask | ~known)  # what is outside of the image is not of the mask
    return surface


def _failures(scores: CaseScores, k: int) -> tuple[int, int]:
    """Cases in which class k is missed, and in which it is predicted in vain."""
    there, found = scores.truth[:, k], scores.predicted[:, k]
    return int((there & ~found).sum()), int((found & ~there).sum())


def _reason(scores: CaseScores, metric: MaskMetric) -> str:
    if len(scores) == 0:
        return "there is no case"
    if not scores.known.any():
        return "no voxel is labeled"
    return "no case shows it" if metric == "dice" else "no case has two surfaces to measure between"


def _mean(values: Floats, axis: int) -> Floats:
    """Mean over what is defined; NaN if nothing is."""
    defined = np.isfinite(values)
    count = defined.sum(axis=axis)
    mean: Floats = np.where(count > 0, np.where(defined, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)
    return mean
