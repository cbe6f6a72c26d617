"""One idea: how good class predictions are and how sure one may be of it, with intervals that respect patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.metrics.bootstrap import Floats, check_bootstrap, draw_groups, interval

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
ANY_FINDING = "any finding"
"""Of several findings of which labels are known, whether any is present: ``1 - prod(1 - p)``, as if they were
independent. It is unknown for an image of which none is known to be present, and one is unknown."""

_BINS = 15
_BLOCK = 2**18  # weights held at once; 2 MiB stay in the cache, and memory does not grow with the resamples


def classification_metrics(
    probs: np.ndarray, target: np.ndarray, classes: Sequence[str] = ()
) -> tuple[dict[str, float], dict[str, str]]:
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
        classes: K names for the reasons; empty: "class 0", "class 1", ...

    Returns:
        The defined metrics, and for each undefined one the reason. What a macro average left out stands in the second
        as well, for example ``"auroc of class 3"``. There is no NaN in the first.

    Raises:
        ValueError: if shapes do not fit, or `probs` or `target` hold other values, or if there are not K classes.
    """
    predictions = _prepare(probs, target)
    return _describe(predictions, _class_names(predictions, classes))


def left_out(undefined: Mapping[str, str], titles: Mapping[str, str] | None = None) -> list[str]:
    """Which classes the macro averages leave out, as text: a line for each metric that leaves out any.

    Args:
        undefined: reasons, as from `classification_metrics`.
        titles: what to call the metrics, by their names; None: all `METRICS`, by these.
    """
    lines = []
    for metric, title in (titles or dict(zip(METRICS, METRICS, strict=True))).items():
        head = f"{metric} of "
        by_reason: dict[str, list[str]] = {}
        for name, reason in undefined.items():
            if name.startswith(head):
                by_reason.setdefault(reason, []).append(name.removeprefix(head))
        if by_reason:
            texts = [f"{', '.join(names)} ({reason})" for reason, names in by_reason.items()]
            lines.append(f"{title} leaves out {'; '.join(texts)}")
    return lines


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
    check_bootstrap(group, len(predictions.probs), level, resamples)
    if unknown := sorted(set(metrics) - set(METRICS)):
        raise ValueError(f"unknown metrics {unknown}; choose from {list(METRICS)}.")
    if len(set(map(str, group))) < 2 or not np.isfinite(predictions.probs).all():
        return {}

    draws, member = draw_groups(group, resamples, seed)  # as weights: metrics need no copies of samples
    step = max(1, _BLOCK // len(member))
    parts = [
        _weighted(predictions, draws[start : start + step].T[member].astype(np.float64), metrics)
        for start in range(0, resamples, step)
    ]
    on_sample = _weighted(predictions, np.ones((len(member), 1)), metrics)
    intervals = {}
    for name in metrics:
        values = np.concatenate([part[name] for part in parts])
        bounds = interval(values, level)
        if np.isfinite(on_sample[name][0]) and bounds is not None:
            intervals[name] = bounds
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
        Multi-label, a finding has ``absent`` and ``unknown`` as well, the samples known not to show it and
        those of which it is not known, and ``specificity``; `ANY_FINDING` is a row of its own, and
        ``per_class_intervals`` are ``{finding: {"auroc": [low, high], "ap": [low, high]}}``, where there are any.

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

    per_class, further = _class_by_class(predictions, names), {}
    if predictions.several:
        rows, names = _with_any_finding(predictions, names)
        per_class = _class_by_class(rows, names)
        answer = np.where(rows.known, rows.truth.astype(int), -1)
        pairs = {
            name: bootstrap_intervals(
                rows.probs[:, [k]], answer[:, [k]], group, ("auroc", "ap"), level, resamples, seed
            )
            for k, name in enumerate(names)
        }
        further = {
            "per_class_intervals": {name: {m: list(pair) for m, pair in of.items()} for name, of in pairs.items() if of}
        }
    return {
        "n": len(predictions.probs),
        "groups": len({str(name) for name in group}),
        "metrics": metrics,
        "undefined": undefined,
        "per_class": per_class,
        **further,
        "interval": f"{100 * level:g} % group bootstrap, {resamples} resamples, seed {seed}",
    }


def finding_figures(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """AUROC and average precision of every finding, as rows of a table; nothing for one class per image.

    Args:
        evaluation: as from `evaluate_predictions`.

    Returns:
        Rows with ``metric`` (``"auroc of effusion"``), ``value``, ``low`` and ``high`` if there is an interval, and
        ``n``, the samples of which the finding is known. What is undefined, also as a mean over the findings, has the
        value None and the reason in ``undefined``.
    """
    if "per_class_intervals" not in evaluation:
        return []
    reasons = evaluation["undefined"]
    rows = [{"metric": name, "value": None, "undefined": reasons[name]} for name in METRICS if name in reasons]
    for metric in ("auroc", "ap"):
        for finding, entry in evaluation["per_class"].items():
            row = {"metric": f"{metric} of {finding}", "value": entry.get(metric), "n": entry["n"] + entry["absent"]}
            if metric not in entry:
                both = entry["n"] and entry["absent"]  # else what hinders one hinders all
                row["undefined"] = reasons[metric] if both else _one_outcome(entry["n"], entry["absent"])
            bounds = evaluation["per_class_intervals"].get(finding, {}).get(metric, ())
            rows.append({**row, **dict(zip(("low", "high"), bounds, strict=False))})
    return rows


@dataclass(frozen=True)
class _Predictions:
    """Single-label and multi-label alike as K yes-or-no columns; all arrays are (N, K)."""

    probs: Floats
    truth: Bools
    known: Bools
    predicted: Bools
    several: bool  # cases in a sample


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
    several = target.ndim == 2
    samples, classes = probs.shape
    if several:
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
    return _Predictions(probs, truth, known, predicted, several)


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
    if predictions.several:
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
            if known[k] and metric.endswith("_macro"):
                reason = "neither occurs nor is predicted"
            else:
                reason = _one_outcome(int(positive[k]), int(known[k]) - int(positive[k]))
            undefined[f"{metric} of {names[k]}"] = reason
    return values, undefined


def _one_outcome(positive: int, negative: int) -> str:
    """Why a class that lacks an outcome has no figure."""
    if positive == negative == 0:
        return "no label is known"
    return "no negative sample" if positive else "no positive sample"


def _with_any_finding(predictions: _Predictions, names: Sequence[str]) -> tuple[_Predictions, list[str]]:
    """Multi-label predictions with a column more, `ANY_FINDING`."""
    if len(names) < 2 or ANY_FINDING in names:
        return predictions, list(names)
    asked = predictions.known.any(axis=0) | ~predictions.known.any()
    present = (predictions.truth & predictions.known).any(axis=1, keepdims=True)
    truth = np.where(present, 1, np.where(predictions.known[:, asked].all(axis=1, keepdims=True), 0, -1))
    probs = 1 - (1 - predictions.probs[:, asked]).prod(axis=1, keepdims=True)
    target = np.where(predictions.known, predictions.truth.astype(int), -1)
    return _prepare(np.hstack([predictions.probs, probs]), np.hstack([target, truth])), [*names, ANY_FINDING]


def _class_by_class(predictions: _Predictions, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return counts and what is defined of each class, by its name."""
    counts = {"n": (predictions.truth & predictions.known).sum(axis=0)}
    if predictions.several:
        counts |= {"absent": (~predictions.truth & predictions.known).sum(axis=0)}
        counts |= {"unknown": (~predictions.known).sum(axis=0)}
    columns = _per_class(predictions)
    result: dict[str, dict[str, float]] = {}
    for k, name in enumerate(names):
        defined = {key: float(column[k]) for key, column in columns.items() if np.isfinite(column[k])}
        result[name] = {**{key: int(count[k]) for key, count in counts.items()}, **defined}
    return result


def _per_class(predictions: _Predictions) -> dict[str, Floats]:
    """One-against-rest values of each class ``(K,)``, NaN where undefined; for two classes of both."""
    weights = np.ones((len(predictions.probs), 1))
    if not np.isfinite(predictions.probs).all():
        return {}
    auroc, ap = _ranking(predictions, weights, range(predictions.probs.shape[1]))
    hit, false_alarm, miss, rejected = _counts(predictions, weights)
    with np.errstate(invalid="ignore"):
        columns = {"auroc": auroc, "ap": ap, "recall": hit / (hit + miss)}
        if predictions.several:
            columns["specificity"] = rejected / (rejected + false_alarm)
    return {name: column[:, 0] for name, column in columns.items()}


def _weighted(predictions: _Predictions, weights: Floats, metrics: Sequence[str]) -> dict[str, Floats]:
    """Metrics ``(R,)`` of R resamples, given as multiplicities ``(N, R)``; NaN where undefined."""
    values = {}
    for name, columns in _columns(predictions, weights, metrics).items():
        defined = ~np.isnan(columns)
        with np.errstate(invalid="ignore"):
            values[name] = np.where(defined, columns, 0.0).sum(axis=0) / defined.sum(axis=0)
    return values


def _columns(predictions: _Predictions, weights: Floats, metrics: Sequence[str]) -> dict[str, Floats]:
    """Return what each metric is the mean of: ``(K, R)`` by class, or ``(1, R)``; NaN where undefined, so left out."""
    columns: dict[str, Floats] = {}
    tp, fp, fn, tn = _counts(predictions, weights)
    with np.errstate(invalid="ignore"):
        if predictions.several:
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
        of_class_1 = classes == 2 and not predictions.several
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
    if predictions.several:
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
