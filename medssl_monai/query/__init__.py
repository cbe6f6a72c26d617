"""Query strategies for active learning."""

from medssl_monai.pool.outputs import PoolOutputs
from medssl_monai.query.base import EmbeddingQuery, Query, QueryStrategy, top_unlabeled
from medssl_monai.query.boostmis import BoostMISQuery, DensityEntropy
from medssl_monai.query.clusters import Clusters
from medssl_monai.query.coreset import CoreSet
from medssl_monai.query.instability import Instability
from medssl_monai.query.joint import JointQuery
from medssl_monai.query.masks import bald, boundary_entropy, ceal, dice_disagreement, foreground_random, mask_entropy
from medssl_monai.query.mixed import AfterColdStart, Mixed
from medssl_monai.query.typiclust import TypiClust
from medssl_monai.query.uncertainty import entropy, margin, random

__all__ = [
    "AfterColdStart",
    "BoostMISQuery",
    "Clusters",
    "CoreSet",
    "DensityEntropy",
    "EmbeddingQuery",
    "Instability",
    "JointQuery",
    "Mixed",
    "PoolOutputs",
    "Query",
    "QueryStrategy",
    "TypiClust",
    "bald",
    "boundary_entropy",
    "ceal",
    "dice_disagreement",
    "entropy",
    "foreground_random",
    "margin",
    "mask_entropy",
    "random",
    "top_unlabeled",
]
