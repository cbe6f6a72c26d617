"""Engines: training, prediction of pools, and the closed loop."""

from medssl_monai.engines.evaluate import JoinLabels, evaluate, write_evaluation
from medssl_monai.engines.pool import predict, predict_pool, weights_sha256
from medssl_monai.engines.trainer import SSLTrainer

__all__ = [
    "JoinLabels",
    "SSLTrainer",
    "evaluate",
    "predict",
    "predict_pool",
    "weights_sha256",
    "write_evaluation",
]
