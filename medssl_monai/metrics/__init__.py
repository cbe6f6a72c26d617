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
from medssl_monai.metrics.masks import MASK_METRICS, CaseScores, case_scores, evaluate_masks, mask_metrics
from medssl_monai.metrics.targets import judge_targets, pseudo_label_accuracy, rank_correlation

__all__ = [
    "ANY_FINDING",
    "MASK_METRICS",
    "METRICS",
    "CaseScores",
    "bootstrap_intervals",
    "case_scores",
    "classification_metrics",
    "evaluate_masks",
    "evaluate_predictions",
    "finding_figures",
    "judge_targets",
    "left_out",
    "mask_metrics",
    "pseudo_label_accuracy",
    "rank_correlation",
]
