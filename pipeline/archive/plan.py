"""The plan of a zoo, made before any fit: splits, members, shards."""

from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ShardPlan:
    """The members of one shard, in order."""

    name: str
    """`SPLIT-NNNNNN`"""
    split: str
    source_index: np.ndarray
    """`(members,)` int64: which signal; in a zoo of classifiers, which run."""
    view: np.ndarray
    """`(members,)` int64: which of the signal's INRs, or of the run's checkpoints."""
