"""Ask for labels, and take them."""

from medssl_monai.asking.answers import Annotator, Oracle
from medssl_monai.asking.ask import Learner, PredictedPool, write_one_query

__all__ = ["Annotator", "Learner", "Oracle", "PredictedPool", "write_one_query"]
