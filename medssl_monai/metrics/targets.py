"""How good the targets of unlabeled images are, measured with labels that training did not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medssl_monai.metrics.classification import classification_metrics


def judge_targets(
    probs: np.ndarray,
    pseudo_label: np.ndarray,
    targets: np.ndarray,
    accepted: np.ndarray,
    estimated_loss: np.ndarray,
    truth: np.ndarray,
    classes: Sequence[str] = (),
) -> dict[str, Any]:
    """Whether an estimated loss orders images as the true one does, and soft targets are as sure as they may be.

    The true loss is the cross-entropy of `probs`. A target counts as a prediction: its largest entry is its confidence
    (expected calibration error as in `classification_metrics`). A hard pseudo-label claims to be certain, so that its
    calibration error is its share of errors.

    Args:
        probs: what the student predicts, ``(N, K)``, in [0, 1].
        pseudo_label: class indices ``(N,)``.
        targets: soft targets ``(N, K)``, rows sum to 1.
        accepted: which images the learner learns from, ``(N,)`` bool.
        estimated_loss: in nats, ``(N,)``.
        truth: class indices ``(N,)``.
        classes: K names; empty: "class 0", "class 1", ...

    Returns:
        ``n`` (count), ``loss_correlation`` (Spearman), ``target_ece`` and ``hard_ece`` of all images; ``accepted``: the
        same of those accepted, with ``accuracy`` and ``per_class`` as in `pseudo_label_accuracy`. What is undefined is
        left out: see `rank_correlation`; all but ``n`` without images; the calibration of targets that are not finite.
    """
    tiny = np.finfo(np.float32).tiny  # the smallest probability of a softmax in float32 may be 0
    loss = -np.log(np.maximum(probs[np.arange(len(truth)), truth].astype(np.float64), tiny))

    def figures(rows: np.ndarray) -> dict[str, Any]:
        soft = classification_metrics(targets[rows], truth[rows])[0]
        found = {
            "loss_correlation": rank_correlation(estimated_loss[rows], loss[rows]),
            "target_ece": soft.get("ece"),
            "hard_ece": float((pseudo_label[rows] != truth[rows]).mean()) if len(rows) else None,
        }
        return {"n": len(rows), **{name: value for name, value in found.items() if value is not None}}

    rows = np.flatnonzero(accepted)
    by_class = pseudo_label_accuracy(pseudo_label[rows], truth[rows], probs.shape[1], classes)
    return {**figures(np.arange(len(truth))), "accepted": {**figures(rows), **by_class}}


def judge_findings(
    probs: np.ndarray,
    pseudo_label: np.ndarray,
    targets: np.ndarray,
    accepted: np.ndarray,
    estimated_loss: np.ndarray,
    truth: np.ndarray,
    classes: Sequence[str] = (),
) -> dict[str, Any]:
    """`judge_targets` of findings: each pair of an image and a finding is a case of the classes absent and present.

    Over all pairs an estimate may do well by telling rare findings from common ones alone, so look at each as well.

    Args:
        probs: that a finding is present, ``(N, K)``, in [0, 1].
        pseudo_label: 1 present, 0 absent, ``(N, K)``.
        targets: soft targets, of presence, ``(N, K)``.
        accepted: which pairs the learner learns from, ``(N, K)`` bool.
        estimated_loss: in nats, ``(N, K)``.
        truth: 1, 0 or -1 unknown, ``(N, K)``; unknown pairs are left out.
        classes: K names; empty: "class 0", "class 1", ...

    Returns:
        As `judge_targets`, ``n`` counting pairs, of all findings together; ``per_finding``: of each, by its name.
    """

    def figures(columns: slice) -> dict[str, Any]:
        known = truth[:, columns] >= 0
        present, label, target, rows, estimate, right = (
            values[:, columns][known] for values in (probs, pseudo_label, targets, accepted, estimated_loss, truth)
        )
        both, taught = (np.stack([1.0 - values, values], axis=1) for values in (present, target))
        return judge_targets(both, label, taught, rows, estimate, right, ("absent", "present"))

    names = list(classes) or [f"class {k}" for k in range(truth.shape[1])]
    return {**figures(slice(None)), "per_finding": {name: figures(slice(k, k + 1)) for k, name in enumerate(names)}}


def pseudo_label_accuracy(
    pseudo_label: np.ndarray, truth: np.ndarray, num_classes: int, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """Accuracy of pseudo-labels, and for each class of those that name it.

    Args:
        pseudo_label: class indices ``(N,)``.
        truth: class indices ``(N,)``.
        num_classes: K.
        classes: K names; empty: "class 0", "class 1", ...

    Returns:
        ``accuracy`` and ``per_class``: ``{class: {"n", "accuracy"}}`` with ``n`` the pseudo-labels that name it and no
        ``accuracy`` where there are none. Nothing if there is no pseudo-label at all.
    """
    if len(pseudo_label) == 0:
        return {}
    right = pseudo_label == truth
    per_class: dict[str, dict[str, float]] = {}
    for k, name in enumerate(classes or [f"class {k}" for k in range(num_classes)]):
        named = right[pseudo_label == k]
        per_class[name] = {"n": len(named), **({"accuracy": float(named.mean())} if len(named) else {})}
    return {"accuracy": float(right.mean()), "per_class": per_class}


def pseudo_finding_accuracy(pseudo_label: np.ndarray, truth: np.ndarray, classes: Sequence[str] = ()) -> dict[str, Any]:
    """Accuracy of multi-label pseudo-labels, of those that name a finding present and of those that name it absent.

    Where findings are rare, nearly everything that is said to be absent is, so that ``accuracy`` alone says little.

    Args:
        pseudo_label: ``(N, K)``: 1 present, 0 absent, -1 not accepted.
        truth: ``(N, K)``: 1, 0, -1 unknown; unknown pairs are left out.
        classes: K names; empty: "class 0", "class 1", ...

    Returns:
        ``accuracy``; ``present`` and ``absent``: ``{"n", "accuracy"}`` with ``n`` the pseudo-labels that say so, and no
        ``accuracy`` where there are none; ``per_class``: ``{class: {"present", "absent"}}``. Nothing if there is no
        pseudo-label at all.
    """
    counts = (pseudo_label >= 0) & (truth >= 0)
    if not counts.any():
        return {}
    right = pseudo_label == truth

    def figures(columns: slice) -> dict[str, Any]:
        found = {}
        for name, value in (("present", 1), ("absent", 0)):
            said = right[:, columns][(counts & (pseudo_label == value))[:, columns]]
            found[name] = {"n": len(said), **({"accuracy": float(said.mean())} if len(said) else {})}
        return found

    names = list(classes) or [f"class {k}" for k in range(truth.shape[1])]
    per_class = {name: figures(slice(k, k + 1)) for k, name in enumerate(names)}
    return {"accuracy": float(right[counts].mean()), **figures(slice(None)), "per_class": per_class}


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's correlation of two series ``(N,)``, ties at their mean rank.

    None where it is undefined: if a series is constant (so is one of less than two values) or not finite.
    """
    from scipy import stats

    if any(len(np.unique(series)) < 2 or not np.isfinite(series).all() for series in (first, second)):
        return None
    return float(stats.spearmanr(first, second).statistic)
