"""Statistics that a report needs."""

from medssl_monai.metrics.classification import (
    METRICS,
    bootstrap_intervals,
    classification_metrics,
    evaluate_predictions,
)

__all__ = ["METRICS", "bootstrap_intervals", "classification_metrics", "evaluate_predictions"]
