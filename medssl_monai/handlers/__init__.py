"""Ignite handlers."""

from medssl_monai.handlers.best_model import BestModel
from medssl_monai.handlers.checkpoint import TrainingCheckpoint
from medssl_monai.handlers.estimator import EstimatorReport
from medssl_monai.handlers.latest_weights import LatestWeights
from medssl_monai.handlers.log import EpochMean, only_first_process_logs
from medssl_monai.handlers.mask_writer import MaskWriter
from medssl_monai.handlers.query import QueryHandler
from medssl_monai.handlers.rounds import RoundReport
from medssl_monai.handlers.saliency_writer import SaliencyWriter
from medssl_monai.handlers.seed import EpochSeed, set_deterministic
from medssl_monai.handlers.table import ProbabilityTable
from medssl_monai.handlers.validation import ValidationScores

__all__ = [
    "BestModel",
    "EpochMean",
    "EpochSeed",
    "EstimatorReport",
    "LatestWeights",
    "MaskWriter",
    "ProbabilityTable",
    "QueryHandler",
    "RoundReport",
    "SaliencyWriter",
    "TrainingCheckpoint",
    "ValidationScores",
    "only_first_process_logs",
    "set_deterministic",
]
