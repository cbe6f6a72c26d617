"""Query strategies for active learning."""

from medssl_monai.query.base import PoolOutputs, Query, QueryStrategy, top_unlabeled
from medssl_monai.query.boostmis import BoostMISQuery, DensityEntropy, Instability
from medssl_monai.query.uncertainty import entropy, margin, random

__all__ = [
    "BoostMISQuery",
    "DensityEntropy",
    "Instability",
    "PoolOutputs",
    "Query",
    "QueryStrategy",
    "entropy",
    "margin",
    "random",
    "top_unlabeled",
]
