"""Splits of the signals: train, validation, test."""

import math
from collections.abc import Sequence

import numpy as np

from pipeline.archive.plan import SPLITS
from pipeline.config import AnyZooConfig, ClassifierZooConfig
from pipeline.errors import InputError
from pipeline.signals import Signals

FEW = 128
"""Number of signals for a trial, if they have few classes."""


def split_sources(
    config: AnyZooConfig, signals: Signals, sizes: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """The signals of each split, drawn per class with the zoo's seed.

    All views of a signal are in one split. For classifiers: the images for training, and those on
    which losses and accuracies are computed.

    `sizes` are the numbers of signals before each growth. These signals stay in their splits, and
    new ones are drawn so that each split has its share of all.

    Test and validation splits of the source are kept. Raises InputError if a split would be empty.
    """
    given = {"test": signals.held_out, "validation": signals.validation}
    own = {split: members for split, members in given.items() if members is not None}
    shares = {
        "test": config.signals.test_fraction,
        "validation": config.signals.validation_fraction,
    }
    by_class = np.argsort(signals.labels, kind="stable")
    labels, starts = np.unique(signals.labels[by_class], return_index=True)
    parts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for label, members in zip(labels.tolist(), np.split(by_class, starts[1:]), strict=True):
        drawn, total = dict.fromkeys(shares, 0), 0
        for time, came in enumerate(np.split(members, np.searchsorted(members, sizes))):
            key = [config.seed, 1, max(label, 0), *([time] if time else [])]
            order = np.random.default_rng(key).permutation(came)
            total, rest = total + len(order), order
            for theirs in own.values():
                rest = rest[~theirs[rest]]
            for split, share in shares.items():
                if split in own:
                    part = order[own[split][order]]
                else:
                    part, rest = np.split(rest, [max(0, round(total * share) - drawn[split])])
                    drawn[split] += len(part)
                parts[split].append(part)
            parts["train"].append(rest)
    sources = {split: np.sort(np.concatenate(part)) for split, part in parts.items()}
    for split, part in sources.items():
        if not len(part):
            raise InputError(
                f"the {split} split would be empty: {len(signals)} signals in {len(labels)} "
                f"classes with signals.validation_fraction {config.signals.validation_fraction} "
                f"and signals.test_fraction {config.signals.test_fraction}; change the fractions "
                "or add signals" + (f"; taken: {signals.taken}" if signals.taken else "")
            )
    return sources


def image_splits(config: ClassifierZooConfig, signals: Signals) -> dict[str, np.ndarray]:
    """The images of each split, without unreadable ones."""
    readable = np.isfinite(signals.values).all((1, 2, 3))
    return {
        split: images[readable[images]] for split, images in split_sources(config, signals).items()
    }


def few_signals(config: AnyZooConfig, signals: Signals) -> Signals:
    """Evenly spaced signals, as many as each split needs to have some of each class."""
    shares = (config.signals.validation_fraction, config.signals.test_fraction)
    of_each = math.ceil(2 / min((share for share in shares if share), default=1))
    return signals.take(max(FEW, of_each * len(signals.class_names)))
