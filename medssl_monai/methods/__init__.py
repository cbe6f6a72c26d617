"""Methods; one file each."""

from medssl_monai.methods.base import Batch, Output, SSLMethod, Stream
from medssl_monai.methods.boostmis import AdaptiveThreshold, BoostMIS
from medssl_monai.methods.cross_pseudo import CrossPseudoSupervision
from medssl_monai.methods.estimator import AdaPL
from medssl_monai.methods.fixmatch import FixMatch
from medssl_monai.methods.flexmatch import FlexMatch
from medssl_monai.methods.freematch import FreeMatch
from medssl_monai.methods.mean_teacher import MeanTeacher
from medssl_monai.methods.multimix import MultiMix
from medssl_monai.methods.prototypes import IPH
from medssl_monai.methods.restoration import Restoration
from medssl_monai.methods.s2mts2 import S2MTS2, JointContrastive
from medssl_monai.methods.softmatch import SoftMatch
from medssl_monai.methods.supervised import Supervised
from medssl_monai.methods.tear import TEAR, Targets

__all__ = [
    "IPH",
    "S2MTS2",
    "TEAR",
    "AdaPL",
    "AdaptiveThreshold",
    "Batch",
    "BoostMIS",
    "CrossPseudoSupervision",
    "FixMatch",
    "FlexMatch",
    "FreeMatch",
    "JointContrastive",
    "MeanTeacher",
    "MultiMix",
    "Output",
    "Restoration",
    "SSLMethod",
    "SoftMatch",
    "Stream",
    "Supervised",
    "Targets",
]
