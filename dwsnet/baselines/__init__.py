"""What DWSNets are compared with, on the same interface."""

from dwsnet.baselines.flat import FlatMLPClassifier

__all__ = ["FlatMLPClassifier"]
