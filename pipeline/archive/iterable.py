"""A split of a zoo as an iterable PyTorch dataset, divided between ranks and workers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch.distributed as dist
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.archive.dataset import collatable
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError


class IterableZoo(IterableDataset):
    """The members of a split that have weights, as `(state dict, *columns)`, in plan order.

    `DataLoader(IterableZoo(zoo, "train", ["label"]), batch_size=64, num_workers=2)` yields stacked
    state dicts and columns like `Zoo.dataset`. Over all ranks and their workers each member
    comes exactly once: each worker reads a contiguous part of the split, and the sizes of these
    parts differ by at most one. Rank and world size default to those of torch.distributed, if it is
    initialized.

    Raises InputError for a split or a column that the zoo lacks and a rank outside `world_size`.
    """

    def __init__(
        self,
        zoo: Zoo,
        split: str,
        columns: Sequence[str] = (),
        rank: int | None = None,
        world_size: int | None = None,
    ):
        zoo.shards_of(split)
        zoo.require_columns(columns)
        is_default = rank is None and world_size is None
        if not is_default and (rank is None or world_size is None or not 0 <= rank < world_size):
            raise InputError(
                f"rank must be one of world_size ranks, counted from 0, got rank {rank} and "
                f"world_size {world_size}"
            )
        self.zoo, self.split, self.columns = zoo, split, columns
        self.rank, self.world_size = rank, world_size

    def __getstate__(self) -> dict[str, Any]:
        """A spawned worker has no process group: it gets the rank of the process that starts it."""
        rank, world_size = self._ranks()
        return self.__dict__ | {"rank": rank, "world_size": world_size}

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        shards = self.zoo.shards_of(self.split)
        sizes = [self.zoo.parts[shard.name].table["block"].is_valid() for shard in shards]
        ends = np.cumsum([0, *(pc.sum(has_weights).as_py() or 0 for has_weights in sizes)])
        share, num_shares = self._share()
        start, stop = (int(ends[-1]) * number // num_shares for number in (share, share + 1))
        first, last = np.searchsorted(ends, start, "right") - 1, np.searchsorted(ends, stop)
        position = int(ends[first])
        for block, rows in self.zoo.blocks_of(shards[first:last]):
            columns = [collatable(rows, name) for name in self.columns]
            for row in range(max(0, start - position), min(len(rows), stop - position)):
                state = {name: tensor[row].clone() for name, tensor in block.items()}
                yield state, *(values[row] for values in columns)
            position += len(rows)

    def _share(self) -> tuple[int, int]:
        """The number of this worker and of all workers, over all ranks."""
        rank, world_size = self._ranks()
        worker = get_worker_info()
        if worker is None:
            return rank, world_size
        return rank * worker.num_workers + worker.id, world_size * worker.num_workers

    def _ranks(self) -> tuple[int, int]:
        """This rank and the world size."""
        if self.rank is not None and self.world_size is not None:
            return self.rank, self.world_size
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        return 0, 1
