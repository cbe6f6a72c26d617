"""Statistics that a report needs."""

from medssl_monai.metrics.classification import (
    METRICS,
    bootstrap_intervals,
    classification_metrics,
    evaluate_predictions,
)
from medssl_monai.metrics.targets import judge_targets, pseudo_label_accuracy, rank_correlation

__all__ = [
    "METRICS",
    "bootstrap_intervals",
    "classification_metrics",
    "evaluate_predictions",
    "judge_targets",
    "pseudo_label_accuracy",
    "rank_correlation",
]
