"""How good predictions are and how sure one may be of it: metrics with intervals that respect patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "auroc",
    "ap",
    "ece",
)
_BINS = 15
_BLOCK = 2**18  # weights held at once; 2 MiB stay in the cache, and memory does not grow with the resamples


def classification_metrics(probs: np.ndarray, target: np.ndarray) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics of class probabilities, and the reasons for those that these samples do not define.

    - ``accuracy``: share of right predictions; multi-label: of the known labels.
    - ``balanced_accuracy``: mean recall of the classes that occur; multi-label: mean of sensitivity and specificity.
    - ``precision_macro``, ``recall_macro``, ``f1_macro``: mean over the classes that occur or are predicted, 0 for
      a quotient 0 / 0 (scikit-learn with ``zero_division=0``).
    - ``auroc``, ``ap`` (average precision): two classes: of class 1; more: macro, one class against the rest.
    - ``ece``: expected calibration error of the predicted class (Guo et al., ICML 2017,
      https://arxiv.org/abs/1706.04599), 15 bins of equal width; multi-label: mean over the findings.

    A single class is predicted by the largest probability, a finding by a probability above 0.5, so that a finding
    with probability p is treated as the two classes (1 - p, p).

    Args:
        probs: ``(N, K)``, in [0, 1].
        target: class indices ``(N,)``; or multi-hot ``(N, K)`` with 1, 0 and -1 for an unknown label.

    Returns:
        The defined metrics, and for each undefined one the reason. What a macro average left out stands in the second
        as well, for example ``"auroc of class 3"``. There is no NaN in the first.

    Raises:
        ValueError: if shapes do not fit, or `probs` or `target` hold other values.
    """
    predictions = _prepare(probs, target)
    return _describe(predictions, _class_names(predictions, ()))


def bootstrap_intervals(
    probs: np.ndarray,
    target: np.ndarray,
    group: Sequence[str],
    metrics: Sequence[str] = ("accuracy", "balanced_accuracy", "f1_macro", "auroc", "ap", "ece"),
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of a bootstrap that draws whole groups (patients), with replacement.

    The images of a patient resemble each other: drawing images as if they were independent gives intervals that are too
    narrow (Field and Welsh, J. R. Stat. Soc. B 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x). A metric of a
    resample is that of `classification_metrics` on the samples drawn, thus over the classes that occur among them.
    A percentile interval cannot leave what the sample shows: 0 errors give ``(1.0, 1.0)``.

    Args:
        probs: ``(N, K)``, in [0, 1].
        target: ``(N,)`` or ``(N, K)``, see `classification_metrics`.
        group: whom each sample belongs to, length N.
        metrics: names out of `METRICS`.
        level: share of resamples inside the interval, in (0, 1).
        resamples: how many are drawn.
        seed: same seed, same intervals.

    Returns:
        ``(low, high)`` by metric. A metric is left out if it is undefined on the sample itself or on more than 5 % of
        the resamples, and all are if there are fewer than two groups.

    Raises:
        ValueError: if an argument is out of its range, or shapes do not fit.
    """
    predictions = _prepare(probs, target)
    if len(group) != len(predictions.probs):
        raise ValueError(f"`group` must name the group of each of {len(predictions.probs)} samples, got {len(group)}.")
    if unknown := sorted(set(metrics) - set(METRICS)):
        raise ValueError(f"unknown metrics {unknown}; choose from {list(METRICS)}.")
    if not 0.0 < level < 1.0:
        raise ValueError(f"`level` must be between 0 and 1, got {level}.")
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1, got {resamples}.")
    names, member = np.unique(np.asarray(group, dtype=str), return_inverse=True)
    if len(names) < 2 or not np.isfinite(predictions.probs).all():
        return {}

    # How often each group is drawn says all about a resample: metrics with these as weights need no copies of samples.
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    step = max(1, _BLOCK // len(member))
    parts = [
        _weighted(predictions, draws[start : start + step].T[member].astype(np.float64), metrics)
        for start in range(0, resamples, step)
    ]
    on_sample = _weighted(predictions, np.ones((len(member), 1)), metrics)
    intervals = {}
    for name in metrics:
        values = np.concatenate([part[name] for part in parts])
        defined = values[np.isfinite(values)]
        if np.isfinite(on_sample[name][0]) and len(defined) >= 0.95 * resamples:
            low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
            intervals[name] = (float(low), float(high))
    return intervals


def evaluate_predictions(
    probs: np.ndarray,
    target: np.ndarray,
    group: Sequence[str],
    classes: Sequence[str] = (),
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All of `classification_metrics` with intervals, and the classes one by one, ready for JSON.

    Args:
        probs: ``(N, K)``, in [0, 1].
        target: ``(N,)`` or ``(N, K)``, see `classification_metrics`.
        group: whom each sample belongs to, length N.
        classes: K names; empty: "class 0", "class 1", ...
        level: see `bootstrap_intervals`.
        resamples: see `bootstrap_intervals`.
        seed: see `bootstrap_intervals`.

    Returns:
        ``n`` and ``groups`` (counts); ``metrics``: ``{name: {"value", "low", "high"}}``, without ``low`` and ``high``
        where there is no interval; ``undefined``: ``{name: reason}``; ``per_class``: ``{class: {"n", "auroc", "ap",
        "recall"}}`` with ``n`` the samples of that class, undefined values left out; ``interval``: what it is.

    Raises:
        ValueError: as `bootstrap_intervals`, or if there are not K classes.
    """
    predictions = _prepare(probs, target)
    names = _class_names(predictions, classes)
    intervals = bootstrap_intervals(probs, target, group, METRICS, level, resamples, seed)
    values, undefined = _describe(predictions, names)
    metrics: dict[str, dict[str, float]] = {name: {"value": value} for name, value in values.items()}
    for name, (low, high) in intervals.items():
        metrics[name] |= {"low": low, "high": high}

    per_class: dict[str, dict[str, float]] = {}
    support = (predictions.truth & predictions.known).sum(axis=0)
    columns = _per_class(predictions)
    for k, name in enumerate(names):
        defined = {key: float(column[k]) for key, column in columns.items() if np.isfinite(column[k])}
        per_class[name] = {"n": int(support[k]), **defined}
    return {
        "n": len(predictions.probs),
        "groups": len({str(name) for name in group}),
        "metrics": metrics,
        "undefined": undefined,
        "per_class": per_class,
        "interval": f"{100 * level:g} % group bootstrap, {resamples} resamples, seed {seed}",
    }


@dataclass(frozen=True)
class _Predictions:
    """Single-label and multi-label alike as K yes-or-no columns; all arrays are (N, K)."""

    probs: Floats
    truth: Bools
    known: Bools
    predicted: Bools
    multilabel: bool


def _prepare(probs: np.ndarray, target: np.ndarray) -> _Predictions:
    probs, target = np.asarray(probs, dtype=np.float64), np.asarray(target)
    if probs.ndim != 2:
        raise ValueError(f"`probs` must be (samples, classes), got shape {probs.shape}.")
    if target.shape not in (probs.shape, probs.shape[:1]):
        raise ValueError(
            f"`target` must hold class indices of shape {probs.shape[:1]} or be multi-hot of shape {probs.shape}, "
            f"got shape {target.shape}."
        )
    finite = probs[np.isfinite(probs)]  # the others make the metrics undefined instead
    if ((finite < -1e-3) | (finite > 1 + 1e-3)).any():
        raise ValueError("`probs` must lie in [0, 1]; apply softmax or sigmoid to logits first.")
    multilabel = target.ndim == 2
    samples, classes = probs.shape
    if multilabel:
        allowed, predicted = [-1, 0, 1], probs > 0.5
        truth, known = target == 1, target != -1
    else:
        if classes < 2:
            raise ValueError("class indices need at least two columns of `probs`; give a single finding as multi-hot.")
        allowed, predicted = list(range(classes)), np.zeros(probs.shape, dtype=bool)
        predicted[np.arange(samples), probs.argmax(axis=1)] = True
        truth, known = target[:, None] == np.arange(classes), np.ones(probs.shape, dtype=bool)
    if wrong := sorted(set(np.unique(target).tolist()) - set(allowed)):
        raise ValueError(f"`target` holds {wrong[:5]}; allowed are {allowed}.")
    return _Predictions(probs, truth, known, predicted, multilabel)


def _class_names(predictions: _Predictions, classes: Sequence[str]) -> list[str]:
    columns = predictions.probs.shape[1]
    names = [str(name) for name in classes] or [f"class {k}" for k in range(columns)]
    if len(names) != columns:
        raise ValueError(f"`probs` has {columns} columns, but there are {len(names)} classes: {names}.")
    return names


def _describe(predictions: _Predictions, names: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Values on the sample itself, and the reasons for what is missing."""
    samples = len(predictions.probs)
    if samples == 0:
        return {}, dict.fromkeys(METRICS, "there is no sample")
    if broken := int((~np.isfinite(predictions.probs)).any(axis=1).sum()):
        return {}, dict.fromkeys(METRICS, f"{broken} of {samples} samples have probabilities that are not finite")

    known: Bools = predictions.known.max(axis=0)
    positive: Bools = (predictions.truth & predictions.known).max(axis=0)
    if predictions.multilabel:
        nothing = dict.fromkeys(("auroc", "ap", "balanced_accuracy"), "no finding has both outcomes")
        nothing |= dict.fromkeys(("accuracy", "ece"), "no label is known")
    else:
        only = " and ".join(name for name, occurs in zip(names, positive, strict=True) if occurs)
        nothing = dict.fromkeys(("auroc", "ap", "balanced_accuracy"), f"only {only} occurs")

    values: dict[str, float] = {}
    undefined: dict[str, str] = {}
    for metric, column in _columns(predictions, np.ones((samples, 1)), METRICS).items():
        missing = np.isnan(column[:, 0])
        if missing.all():
            undefined[metric] = nothing.get(metric, "no finding occurs or is predicted")
            continue
        values[metric] = float(column[~missing, 0].mean())
        for k in np.flatnonzero(missing).tolist():
            if not known[k]:
                reason = "no label is known"
            elif metric.endswith("_macro"):
                reason = "neither occurs nor is predicted"
            else:
                reason = "no negative sample" if positive[k] else "no positive sample"
            undefined[f"{metric} of {names[k]}"] = reason
    return values, undefined


def _per_class(predictions: _Predictions) -> dict[str, Floats]:
    """One-against-rest values of each class ``(K,)``, NaN where undefined; for two classes of both."""
    weights = np.ones((len(predictions.probs), 1))
    if not np.isfinite(predictions.probs).all():
        return {}
    auroc, ap = _ranking(predictions, weights, range(predictions.probs.shape[1]))
    hit, _, miss, _ = _counts(predictions, weights)
    with np.errstate(invalid="ignore"):
        recall = hit / (hit + miss)
    return {"auroc": auroc[:, 0], "ap": ap[:, 0], "recall": recall[:, 0]}


def _weighted(predictions: _Predictions, weights: Floats, metrics: Sequence[str]) -> dict[str, Floats]:
    """Metrics ``(R,)`` of R resamples, given as multiplicities ``(N, R)``; NaN where undefined."""
    values = {}
    for name, columns in _columns(predictions, weights, metrics).items():
        defined = ~np.isnan(columns)
        with np.errstate(invalid="ignore"):
            values[name] = np.where(defined, columns, 0.0).sum(axis=0) / defined.sum(axis=0)
    return values


def _columns(predictions: _Predictions, weights: Floats, metrics: Sequence[str]) -> dict[str, Floats]:
    """What each metric is the mean of: ``(K, R)`` by class, or ``(1, R)``; NaN where undefined, thus left out."""
    columns: dict[str, Floats] = {}
    tp, fp, fn, tn = _counts(predictions, weights)
    with np.errstate(invalid="ignore"):
        if predictions.multilabel:
            columns["accuracy"] = (tp + tn).sum(axis=0, keepdims=True) / (tp + tn + fp + fn).sum(axis=0, keepdims=True)
            columns["balanced_accuracy"] = (tp / (tp + fn) + tn / (tn + fp)) / 2
        else:
            columns["accuracy"] = tp.sum(axis=0, keepdims=True) / weights.sum(axis=0, keepdims=True)
            # Of a single class it would be that class's recall, nothing balanced.
            several = (tp + fn > 0).sum(axis=0) > 1
            columns["balanced_accuracy"] = np.where(several, tp / (tp + fn), np.nan)
        seen = tp + fp + fn > 0
        columns["precision_macro"] = np.where(seen, tp / np.maximum(tp + fp, 1.0), np.nan)
        columns["recall_macro"] = np.where(seen, tp / np.maximum(tp + fn, 1.0), np.nan)
        columns["f1_macro"] = 2 * tp / (2 * tp + fp + fn)
    if {"auroc", "ap"} & set(metrics):
        classes = predictions.probs.shape[1]
        of_class_1 = classes == 2 and not predictions.multilabel
        columns["auroc"], columns["ap"] = _ranking(predictions, weights, [1] if of_class_1 else range(classes))
    if "ece" in metrics:
        columns["ece"] = _calibration(predictions, weights)
    return {name: columns[name] for name in metrics}


def _counts(predictions: _Predictions, weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Weighted true positives, false positives, false negatives and true negatives, each ``(K, R)``."""
    truth, known, predicted = predictions.truth, predictions.known, predictions.predicted
    cells = (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth)
    tp, fp, fn, tn = ((cell & known).T.astype(np.float64) @ weights for cell in cells)
    return tp, fp, fn, tn


def _ranking(predictions: _Predictions, weights: Floats, classes: Sequence[int]) -> tuple[Floats, Floats]:
    """Weighted AUROC and average precision ``(len(classes), R)``, NaN without both outcomes."""
    auroc, ap = np.full((2, len(classes), weights.shape[1]), np.nan)
    for row, k in enumerate(classes):
        known = np.flatnonzero(predictions.known[:, k])
        order = known[np.argsort(-predictions.probs[known, k], kind="stable")]
        if not len(order):
            continue
        # Samples of equal score pass the threshold together: only the last of each tie is a point of the curve.
        last = np.flatnonzero(np.diff(predictions.probs[order, k], append=np.nan) != 0)
        sorted_weights = weights[order]
        tp = np.cumsum(sorted_weights * predictions.truth[order, k, None], axis=0)[last]
        above = np.cumsum(sorted_weights, axis=0)[last]
        fp = above - tp
        gained = np.diff(tp, axis=0, prepend=0.0)
        area = (np.diff(fp, axis=0, prepend=0.0) * (tp - gained / 2)).sum(axis=0)
        steps = (gained * tp / np.maximum(above, 1.0)).sum(axis=0)
        both = (tp[-1] > 0) & (fp[-1] > 0)
        auroc[row, both] = area[both] / (tp[-1] * fp[-1])[both]
        ap[row, both] = steps[both] / tp[-1][both]
    return auroc, ap


def _calibration(predictions: _Predictions, weights: Floats) -> Floats:
    """Weighted expected calibration error: ``(1, R)``, multi-label ``(K, R)``; NaN without a known label."""
    if predictions.multilabel:
        confidence = np.maximum(predictions.probs, 1 - predictions.probs)
        right, known = predictions.predicted == predictions.truth, predictions.known
    else:
        confidence = predictions.probs.max(axis=1, keepdims=True)
        right = (predictions.predicted & predictions.truth).max(axis=1, keepdims=True)
        known = predictions.known[:, :1]
    bins = np.clip(np.ceil(confidence * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    rows = []
    for k in range(confidence.shape[1]):
        in_bin = (bins[:, k] == np.arange(_BINS)[:, None]) & known[:, k]
        gaps = (in_bin * (right[:, k] - confidence[:, k])) @ weights
        with np.errstate(invalid="ignore"):
            rows.append(np.abs(gaps).sum(axis=0) / (known[:, k] @ weights))
    return np.stack(rows)
