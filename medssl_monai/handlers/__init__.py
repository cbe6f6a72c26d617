"""Ignite handlers."""

from medssl_monai.handlers.best_model import BestModel
from medssl_monai.handlers.checkpoint import TrainingCheckpoint
from medssl_monai.handlers.estimator import EstimatorReport
from medssl_monai.handlers.latest_weights import LatestWeights
from medssl_monai.handlers.log import EpochMean, only_first_process_logs
from medssl_monai.handlers.mask_writer import MaskWriter
from medssl_monai.handlers.query import Oracle, QueryHandler, write_one_query
from medssl_monai.handlers.rounds import RoundReport
from medssl_monai.handlers.saliency_writer import SaliencyWriter
from medssl_monai.handlers.seed import EpochSeed, set_deterministic
from medssl_monai.handlers.table import ProbabilityTable
from medssl_monai.handlers.validation import ClassificationScores, JointScores, MaskScores

__all__ = [
    "BestModel",
    "ClassificationScores",
    "EpochMean",
    "EpochSeed",
    "EstimatorReport",
    "JointScores",
    "LatestWeights",
    "MaskScores",
    "MaskWriter",
    "Oracle",
    "ProbabilityTable",
    "QueryHandler",
    "RoundReport",
    "SaliencyWriter",
    "TrainingCheckpoint",
    "only_first_process_logs",
    "set_deterministic",
    "write_one_query",
]
