"""Zoos of classifiers: a run trains a network on images, and each checkpoint is a member."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dwsnet.weight_space import WeightSpace
from pipeline.archive.growth import Growth
from pipeline.archive.plan import SPLITS, ShardPlan
from pipeline.archive.schemas import CLASSIFIERS
from pipeline.archive.shard import Members
from pipeline.config import ClassifierZooConfig
from pipeline.decode import CATALOG, DecodeContract, ImageContract, standardized
from pipeline.errors import InputError
from pipeline.fit.classifiers import stacks, train_runs
from pipeline.fit.dataset import ImageDataset, steps_per_epoch
from pipeline.fit.runs import Runs, checkpoint_epochs, draw_runs
from pipeline.fit.stack import KERNEL, Stack
from pipeline.fit.timing import median_seconds, seconds_of
from pipeline.progress import Advance
from pipeline.signals import Signals
from pipeline.zoos.splits import few_signals, image_splits

STANDARDIZED_BY = 10_000
"""Maximum number of train images, evenly spaced, for the mean and standard deviation."""

SMALL = 64
"""Number of runs of a small zoo."""


@dataclass(frozen=True)
class Classifiers:
    config: ClassifierZooConfig
    signals: Signals
    members: ClassVar[str] = "classifiers"
    quality: ClassVar[str] = "test_accuracy"

    @staticmethod
    def in_words(quality: float) -> str:
        return f"test accuracy {100 * quality:.1f} %"

    @property
    def space(self) -> WeightSpace:
        network, signals = self.config.network, self.signals
        num_outputs = 2 if self.config.classes == "pairs" else len(signals.class_names)
        channels = 1 if network.grey else signals.num_channels
        if network.kind == "cnn":
            return WeightSpace.cnn(channels, network.hidden, KERNEL, num_outputs)
        return WeightSpace.mlp(
            (channels * int(np.prod(signals.grid)), *network.hidden, num_outputs)
        )

    @property
    def facts(self) -> dict[str, str]:
        """None, as a classifier is trained on many images."""
        return {}

    def decode_contract(self) -> DecodeContract:
        """Images are standardized per channel by statistics of train images, to four digits."""
        network, train = self.config.network, image_splits(self.config, self.signals)["train"]
        some = standardized(
            images_of(self.signals, train[:: -(-len(train) // STANDARDIZED_BY)]),
            ImageContract(grey=network.grey),
        )
        mean, std = (
            statistic.tolist() for statistic in (some.mean((0, 2, 3)), some.std((0, 2, 3)))
        )
        return DecodeContract(
            activations=(*(CATALOG for _ in network.hidden), "linear"),
            omega=1.0,
            output_offset=None,
            coordinate_range=None,
            coordinate_order=None,
            value_range=(0.0, 1.0),
            image=ImageContract(
                grey=network.grey,
                mean=tuple(round(value, 4) for value in mean),
                std=tuple(round(max(value, 1e-3), 4) for value in std),
                stride=network.stride,
            ),
        )

    def plan_shards(self, grown: Sequence[Growth] = ()) -> list[ShardPlan]:
        """The runs of each split, with all their checkpoints. These zoos do not grow.

        Runs are split independently of the images. Raises InputError if a split of the runs would
        be empty, and for signals that are not images with classes.
        """
        assert not grown
        config = self.config
        check(config, self.signals)
        runs = draw_runs(config, np.arange(config.num_runs), len(self.signals.class_names))
        counts = [len(checkpoint_epochs(config, epochs)) for epochs in runs["epochs"].tolist()]
        order = np.random.default_rng([config.seed, 3]).permutation(config.num_runs)
        num_test, num_validation = (
            round(config.num_runs * share) for share in (config.test_runs, config.validation_runs)
        )
        parts = np.split(order, [num_test, num_test + num_validation])
        shards = []
        for split, part in zip(SPLITS, (parts[2], parts[1], parts[0]), strict=True):
            if not len(part):
                raise InputError(
                    f"the {split} split of the zoo would be empty: {config.num_runs} runs with "
                    f"validation_runs {config.validation_runs} and test_runs {config.test_runs}; "
                    "change the shares or add runs"
                )
            for number, start in enumerate(range(0, len(part), config.shard_size)):
                chosen = np.sort(part)[start : start + config.shard_size]
                source_index = np.repeat(chosen, [counts[run] for run in chosen])
                view = np.concatenate([np.arange(counts[run]) for run in chosen])
                shards.append(ShardPlan(f"{split}-{number:06d}", split, source_index, view))
        return shards

    def class_counts(self, shards: list[ShardPlan]) -> None:
        """None, as classifiers have no class."""

    def prepare(self, device: str):
        """Nothing to prepare."""

    def fit_members(self, shard: ShardPlan, device: str, advance: Advance) -> Members:
        config = self.config
        runs, epochs = self.runs_of(shard)
        counts = [len(part) for part in epochs]
        stack = Stack(self.space, config.network.stride)
        kept = train_runs(
            stack, self.dataset(stack), runs, epochs, config.batch_size, device, advance
        )
        of_run = {name: np.repeat(column, counts) for name, column in runs.items()}
        names = [f"{run:08d}" for run in shard.source_index]
        epoch = np.concatenate(epochs)
        reason = np.where(
            kept.ok, np.where(epoch == of_run["epochs"], "epochs", "checkpoint"), "diverged"
        )
        columns: dict[str, Any] = {
            name: column for name, column in of_run.items() if name in CLASSIFIERS.names
        }
        columns |= {
            name: pa.array(of_run[name], mask=of_run[name] < 0) for name in ("class_0", "class_1")
        }
        columns |= {name: pa.array(scores, mask=~kept.ok) for name, scores in kept.scores.items()}
        columns |= {
            "source_index": shard.source_index,
            "view": shard.view.astype(np.int32),
            "run": names,
            "epoch": epoch,
            "stop_reason": reason.tolist(),
            "steps": kept.steps,
        }
        keys = [f"{run}-{view:04d}" for run, view in zip(names, shard.view, strict=True)]
        return Members(keys, kept.rows, kept.ok, columns)

    def runs_of(self, shard: ShardPlan) -> tuple[Runs, list[list[int]]]:
        """The runs of a shard, and the epochs of their checkpoints."""
        numbers = np.unique(shard.source_index)
        runs = draw_runs(self.config, numbers, len(self.signals.class_names))
        return runs, [checkpoint_epochs(self.config, epochs) for epochs in runs["epochs"].tolist()]

    def small(self) -> "Classifiers":
        config = self.config.model_copy(update={"num_runs": min(self.config.num_runs, SMALL)})
        return Classifiers(config, few_signals(config, self.signals))

    def fit_seconds(self, shards: Sequence[ShardPlan], device: str, budget: float) -> float:
        """Counts the steps and scored batches of the first shard, and times one of each."""
        size, stack, made = (
            self.config.batch_size,
            Stack(self.space, self.config.network.stride),
            [],
        )
        of_dataset = seconds_of(lambda: made.append(self.dataset(stack)), device)
        (dataset,), (runs, epochs) = made, self.runs_of(shards[0])
        one_batch = replace(dataset, evaluation_images=size)
        training = next(stacks(stack, one_batch, runs, epochs, size, device))
        together = np.arange(len(training.rows))
        training.start_epochs(0)
        of_step = median_seconds(lambda: training.take_step(0), device, budget / 2)
        of_batch = median_seconds(lambda: training.score(together, "train"), device, budget / 2)
        pools = dataset.pools("train", runs)
        num_steps = sum(
            steps_per_epoch(len(pool), size) * part[-1]
            for pool, part in zip(pools, epochs, strict=True)
        )
        num_batches = sum(
            -(-len(pool) // size) * len(part)
            for split in image_splits(self.config, self.signals)
            for pool, part in zip(dataset.scored(split, runs), epochs, strict=True)
        )
        of_runs = (num_steps * of_step + num_batches * of_batch) / len(together)
        shares = sum(len(shard.view) for shard in shards) / len(shards[0].view)
        return of_runs * shares + of_dataset * len(shards)

    def dataset(self, stack: Stack) -> ImageDataset:
        """The standardized images with their labels and splits."""
        config, signals, contract = self.config, self.signals, self.decode_contract().image
        assert contract is not None
        images = standardized(images_of(signals, slice(None)), contract)
        return ImageDataset(
            stack.prepare(images),
            signals.labels,
            image_splits(config, signals),
            len(signals.class_names),
            config.evaluation_images,
        )


def images_of(signals: Signals, index: np.ndarray | slice) -> Tensor:
    """`(images, channels, height, width)` float32 in [0, 1]."""
    return torch.from_numpy(signals.values[index]).movedim(-1, 1)


def check(config: ClassifierZooConfig, signals: Signals):
    if len(signals.grid) != 2:
        raise InputError(
            f"classifiers take images, signals {signals.name} have a grid {signals.grid}"
        )
    if config.network.grey and signals.num_channels not in (1, 3):
        raise InputError(
            f"network.grey takes colour images, signals {signals.name} have "
            f"{signals.num_channels} channels"
        )
    if len(signals.class_names) < 2:
        raise InputError(
            f"classifiers need two classes or more, signals {signals.name} have "
            f"{len(signals.class_names)}"
        )
    names = signals.class_names if config.classes == "pairs" else ("image",)
    for split, images in image_splits(config, signals).items():
        found = (
            signals.labels[images] if config.classes == "pairs" else np.zeros(len(images), np.int64)
        )
        counts = np.bincount(found, minlength=len(names))
        if not counts.all():
            raise InputError(
                f"the {split} images of {signals.name} must have one of {names[counts.argmin()]!r} "
                "or more, found none: change signals.validation_fraction or signals.test_fraction, "
                "or add images"
            )
