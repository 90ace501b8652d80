"""What DWSNets are compared with, on the same interface."""

from dwsnet.baselines.flat import AlignedMLPClassifier, AugmentedMLPClassifier, FlatMLPClassifier
from dwsnet.baselines.rows import INR2VecClassifier, TransformerClassifier
from dwsnet.baselines.statistics import BoostedStatistics

__all__ = [
    "AlignedMLPClassifier",
    "AugmentedMLPClassifier",
    "BoostedStatistics",
    "FlatMLPClassifier",
    "INR2VecClassifier",
    "TransformerClassifier",
]
