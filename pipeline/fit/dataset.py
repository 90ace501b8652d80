"""The images that a run is trained and scored on, and their order."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.fit.runs import IMAGES, ORDER, Runs
from pipeline.fit.seeds import derive


@dataclass(frozen=True)
class ImageDataset:
    """Images of a zoo, split once for all runs, independently of the split of the runs."""

    images: Tensor
    """`(images, ...)` float32, standardized, as `Stack.prepare` returns them."""
    labels: np.ndarray
    """`(images,)` int64."""
    splits: Mapping[str, np.ndarray]
    """Positions of the images of 'train', 'validation' and 'test'."""
    num_classes: int
    evaluation_images: int | None
    """Maximum number of images per split that are scored."""

    def pools(self, split: str, runs: Runs) -> list[np.ndarray]:
        """Each run's images of a split: those of its classes; of the train split, its share."""
        images = self.splits[split]
        pairs = np.stack([runs["class_0"], runs["class_1"]], 1)
        known = {
            pair: images if pair[0] < 0 else images[np.isin(self.labels[images], pair)]
            for pair in map(tuple, pairs.tolist())
        }
        pools = [known[tuple(pair)] for pair in pairs.tolist()]
        if split != "train":
            return pools
        keys = derive(runs["seed"], IMAGES).tolist()
        sizes = [
            max(1, round(share * len(pool)))
            for share, pool in zip(runs["train_fraction"].tolist(), pools, strict=True)
        ]
        return [
            np.random.default_rng(key).permutation(pool)[:size]
            for key, pool, size in zip(keys, pools, sizes, strict=True)
        ]

    def scored(self, split: str, runs: Runs) -> list[np.ndarray]:
        """The images that losses and accuracies are computed on, evenly spaced in each pool."""
        pools = self.pools(split, runs)
        limit = self.evaluation_images
        return [
            pool
            if limit is None or limit >= len(pool)
            else pool[np.arange(limit) * len(pool) // limit]
            for pool in pools
        ]

    def outputs(self, runs: Runs) -> Tensor:
        """`(runs, classes)` int64: the output for each class; 0 for classes that a run lacks."""
        classes = np.arange(self.num_classes)
        every = np.broadcast_to(classes, (len(runs["run"]), self.num_classes))
        of_pair = (classes == runs["class_1"][:, None]).astype(np.int64)
        return torch.from_numpy(np.where(runs["class_0"][:, None] < 0, every, of_pair))


def epoch_order(pool: np.ndarray, key: int, epoch: int, batch_size: int) -> np.ndarray:
    """The images of an epoch of a run: its pool, shuffled for the epoch and cut to whole batches.

    `key` is the run's key for `ORDER`. A pool smaller than a batch is repeated to fill it.
    """
    order = np.random.default_rng([key, epoch]).permutation(pool)
    return np.resize(order, steps_per_epoch(len(pool), batch_size) * batch_size)


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    return max(1, num_images // batch_size)


def order_keys(runs: Runs) -> list[int]:
    return derive(runs["seed"], ORDER).tolist()
