"""What a zoo will hold, fixed before any fit: splits, members, shards."""

from dataclasses import dataclass

import numpy as np

from pipeline.config import AnyZooConfig
from pipeline.errors import InputError
from pipeline.signals import Signals

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ShardPlan:
    """The members of one shard, in order."""

    name: str
    """`SPLIT-NNNNNN`"""
    split: str
    source_index: np.ndarray
    """`(members,)` int64: which signal, of a zoo of classifiers which run."""
    view: np.ndarray
    """`(members,)` int64: which of the signal's INRs, or of the run's checkpoints."""


def split_sources(config: AnyZooConfig, signals: Signals) -> dict[str, np.ndarray]:
    """The signals of each split, drawn class by class with the zoo's seed, so that all views of a signal are on one side.

    For a zoo of classifiers: the images that are learned, and those that losses and accuracies are taken on.

    Where the source has a test split of its own, that is the test split. Raises InputError where a split would be empty.
    """
    labels, held_out = signals.labels, signals.held_out
    parts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.random.default_rng([config.seed, 1, int(label)]).permutation(members)
        if held_out is not None:
            order = np.concatenate([order[held_out[order]], order[~held_out[order]]])
        num_test = (
            round(len(order) * config.signals.test_fraction)
            if held_out is None
            else int(held_out[order].sum())
        )
        num_validation = round(len(order) * config.signals.validation_fraction)
        cuts = np.split(order, [num_test, num_test + num_validation])
        for split, part in zip(("test", "validation", "train"), cuts, strict=True):
            parts[split].append(part)
    sources = {split: np.sort(np.concatenate(part)) for split, part in parts.items()}
    for split, part in sources.items():
        if not len(part):
            raise InputError(
                f"the {split} split would be empty: {len(labels)} signals in {len(np.unique(labels))} classes with "
                f"signals.validation_fraction {config.signals.validation_fraction} and signals.test_fraction "
                f"{config.signals.test_fraction}; change the fractions or add signals"
            )
    return sources
