"""Engines: training, prediction of pools, and the closed loop."""

from medssl_monai.engines.evaluate import JoinLabels, evaluate, write_evaluation
from medssl_monai.engines.joint import JointStep
from medssl_monai.engines.predict import as_labeled, predict, predict_pool, weights_sha256
from medssl_monai.engines.probe import evaluate_probe, knn_probe, linear_probe
from medssl_monai.engines.trainer import SSLTrainer

__all__ = [
    "JoinLabels",
    "JointStep",
    "SSLTrainer",
    "as_labeled",
    "evaluate",
    "evaluate_probe",
    "knn_probe",
    "linear_probe",
    "predict",
    "predict_pool",
    "weights_sha256",
    "write_evaluation",
]
