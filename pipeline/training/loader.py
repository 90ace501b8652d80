"""Batches of members, planned from the catalog.

Every rank gets the same number of batches, and what batch number k of an epoch holds does not depend on how many ranks
share it. (WebDataset's own shuffling gives neither.)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipeline.archive.shard import Block
from pipeline.archive.zoo import Zoo
from pipeline.signals import NO_LABEL

WINDOW = 65_536
"""Members held and shuffled together."""


@dataclass(frozen=True)
class Batch:
    state: Block
    """Stacked state dicts: `(batch, *spec.shape)` float32 by tensor name."""
    labels: Tensor
    """`(batch,)` int64."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> "Batch":
        return Batch(
            {name: tensor[index] for name, tensor in self.state.items()}, self.labels[index]
        )

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            {name: tensor.to(device) for name, tensor in self.state.items()}, self.labels.to(device)
        )


def concatenate(batches: list[Batch]) -> Batch:
    names = batches[0].state
    return Batch(
        {name: torch.cat([batch.state[name] for batch in batches]) for name in names},
        torch.cat([batch.labels for batch in batches]),
    )


def num_batches(zoo: Zoo, split: str, batch_size: int) -> int:
    """Batches of `epoch_batches`; the members that do not fill one are left out of that epoch."""
    return len(zoo.members(split)) // batch_size


def epoch_batches(
    zoo: Zoo, split: str, seed: int, epoch: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """This rank's share of each batch of an epoch: `batch_size / world_size` members, in an order drawn from (seed, epoch).

    Shards come in random order; the members of a window of shards are shuffled together.
    """
    share = batch_size // world_size
    rng = np.random.default_rng([seed, epoch])
    shards = zoo.shards_of(split)
    waiting: list[Batch] = []
    for position, number in enumerate(rng.permutation(len(shards))):
        waiting += shard_batches(zoo, shards[number].name)
        last = position == len(shards) - 1
        if not waiting or (sum(map(len, waiting)) < WINDOW and not last):
            continue
        window = concatenate(waiting)
        order = torch.from_numpy(rng.permutation(len(window)))
        full = len(window) // batch_size * batch_size
        for start in range(rank * share, full, batch_size):
            yield window.take(order[start : start + share])
        waiting = [window.take(order[full:])]


def split_batches(zoo: Zoo, split: str, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
    """Every member of `split` once, in the order of the plan, block by block; ranks take turns."""
    blocks = (batch for shard in zoo.shards_of(split) for batch in shard_batches(zoo, shard.name))
    for number, batch in enumerate(blocks):
        if number % world_size == rank:
            yield batch


def shard_batches(zoo: Zoo, shard: str) -> list[Batch]:
    """The blocks of a shard with their labels, NO_LABEL for a member of no class."""
    members = zoo.parts[shard].table.filter(pc.field("status") == "ok")
    labels = torch.tensor(pc.fill_null(members["label"], NO_LABEL).to_numpy())
    blocks = zoo.shard(shard)
    sizes = [len(next(iter(block.values()))) for block in blocks]
    return (
        [Batch(block, part) for block, part in zip(blocks, labels.split(sizes), strict=True)]
        if sizes
        else []
    )
