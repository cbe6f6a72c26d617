"""Statistics that a report needs."""

from medssl_monai.metrics.classification import (
    ANY_FINDING,
    METRICS,
    bootstrap_intervals,
    classification_metrics,
    evaluate_predictions,
    finding_figures,
    left_out,
)
from medssl_monai.metrics.targets import (
    judge_targets,
    pseudo_finding_accuracy,
    pseudo_label_accuracy,
    rank_correlation,
)

__all__ = [
    "ANY_FINDING",
    "METRICS",
    "bootstrap_intervals",
    "classification_metrics",
    "evaluate_predictions",
    "finding_figures",
    "judge_targets",
    "left_out",
    "pseudo_finding_accuracy",
    "pseudo_label_accuracy",
    "rank_correlation",
]
