"""How good the targets of unlabeled images are, measured with labels that training did not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medssl_monai.metrics.classification import classification_metrics


def judge_targets(
    outcomes: np.ndarray,
    pseudo_label: np.ndarray,
    targets: np.ndarray,
    accepted: np.ndarray,
    estimated_loss: np.ndarray,
    truth: np.ndarray,
    states: Sequence[str] = (),
    cases: Sequence[str] = (),
) -> dict[str, Any]:
    """Say whether an estimated loss orders images as the true one does, and soft targets are as sure as they may be.

    The true loss is the cross-entropy of `outcomes`. A target counts as a prediction: its largest entry is its
    confidence (expected calibration error as in `classification_metrics`). A hard pseudo-label claims to be certain, so
    that its calibration error is its share of errors.

    Where an image has several cases, such as findings, each pair of an image and a case counts. Over all pairs an
    estimate may do well by telling rare cases from common ones alone, so look at each as well.

    Args:
        outcomes: what the student predicts, ``(N, *cases, S)``, in [0, 1].
        pseudo_label: states ``(N, *cases)``.
        targets: soft targets ``(N, *cases, S)``, with a sum of 1 over the states.
        accepted: which cases the learner learns from, ``(N, *cases)`` bool.
        estimated_loss: in nats, ``(N, *cases)``.
        truth: states ``(N, *cases)``, -1 unknown; unknown cases are left out.
        states: S names; empty: "class 0", "class 1", ...
        cases: names of the cases; empty: they are not told apart.

    Returns:
        ``n`` (count of images, or pairs), ``loss_correlation`` (Spearman), ``target_ece`` and ``hard_ece`` of all;
        ``accepted``: the same of those accepted, with ``accuracy`` and ``per_class`` by the state that is named, as in
        `pseudo_label_accuracy`. Where cases have names, ``per_finding``: all of this for each. What is undefined is
        left out: see `rank_correlation`; all but ``n`` without images; the calibration of targets that are not finite.
    """
    values = (outcomes, pseudo_label, targets, accepted, estimated_loss, truth)
    found = _judged([value[truth >= 0] for value in values], states)
    if not cases:
        return found
    by_case = ([value[:, k][truth[:, k] >= 0] for value in values] for k in range(len(cases)))
    return {**found, "per_finding": {name: _judged(own, states) for name, own in zip(cases, by_case, strict=True)}}


def _judged(values: Sequence[np.ndarray], states: Sequence[str]) -> dict[str, Any]:
    """Return `judge_targets` for cases in a row, ``(n,)`` and ``(n, S)``, all of them known."""
    outcomes, pseudo_label, targets, accepted, estimated_loss, truth = values
    tiny = np.finfo(np.float32).tiny  # the smallest probability of a softmax in float32 may be 0
    loss = -np.log(np.maximum(outcomes[np.arange(len(truth)), truth].astype(np.float64), tiny))

    def figures(rows: np.ndarray) -> dict[str, Any]:
        soft = classification_metrics(targets[rows], truth[rows])[0]
        found = {
            "loss_correlation": rank_correlation(estimated_loss[rows], loss[rows]),
            "target_ece": soft.get("ece"),
            "hard_ece": float((pseudo_label[rows] != truth[rows]).mean()) if len(rows) else None,
        }
        return {"n": len(rows), **{name: value for name, value in found.items() if value is not None}}

    rows = np.flatnonzero(accepted)
    by_state = pseudo_label_accuracy(pseudo_label[rows], truth[rows], outcomes.shape[-1], states)
    return {**figures(np.arange(len(truth))), "accepted": {**figures(rows), **by_state}}


def pseudo_label_accuracy(
    pseudo_label: np.ndarray, truth: np.ndarray, num_states: int, states: Sequence[str] = (), cases: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the accuracy of pseudo-labels, and for each state of those that name it.

    Where findings are rare, nearly everything that is said to be absent is, so that ``accuracy`` alone says little.

    Args:
        pseudo_label: states ``(N, *cases)``, -1 not accepted.
        truth: states ``(N, *cases)``, -1 unknown; unknown cases are left out.
        num_states: S.
        states: S names; empty: "class 0", "class 1", ...
        cases: names of the cases; empty: they are not told apart.

    Returns:
        ``accuracy`` and ``per_class``: ``{state: {"n", "accuracy"}}`` with ``n`` the pseudo-labels that name it and no
        ``accuracy`` where there are none. Where cases have names, the states stand beside ``accuracy``, and
        ``per_class`` has them for each case: ``{case: {state: {"n", "accuracy"}}}``. Nothing if there is no
        pseudo-label at all.
    """
    counts = (pseudo_label >= 0) & (truth >= 0)
    if not counts.any():
        return {}
    right, names = pseudo_label == truth, list(states) or [f"class {k}" for k in range(num_states)]

    def by_state(chosen: Any) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for state, name in enumerate(names):
            said = right[chosen][(counts & (pseudo_label == state))[chosen]]
            found[name] = {"n": len(said), **({"accuracy": float(said.mean())} if len(said) else {})}
        return found

    total = {"accuracy": float(right[counts].mean())}
    if not cases:
        return {**total, "per_class": by_state(...)}
    per_case = {name: by_state(np.s_[:, k]) for k, name in enumerate(cases)}
    return {**total, **by_state(...), "per_class": per_case}


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's correlation of two series ``(N,)``, ties at their mean rank.

    None where it is undefined: if a series is constant (so is one of less than two values) or not finite.
    """
    from scipy import stats

    if any(len(np.unique(series)) < 2 or not np.isfinite(series).all() for series in (first, second)):
        return None
    return float(stats.spearmanr(first, second).statistic)
