"""Sources of members: the zoo itself, or memory shared by the processes of a node."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from pipeline.archive.extents import extents_of, read_extent
from pipeline.archive.shard import REBUILD, Block
from pipeline.archive.zoo import Zoo
from pipeline.errors import ArchiveError, WorkError
from pipeline.training.ahead import threads
from pipeline.training.node import SharedMemory, memory_of_node

READERS = 4
"""Number of threads that read a zoo."""
STAGED_SHARE = 0.25
"""Members that take at most this share of a node's memory are read once into shared memory."""


class Streamed:
    """Members of a split, read from the zoo each time. Checksums are verified at the first read."""

    def __init__(self, zoo: Zoo, split: str, num_members: int, places: np.ndarray | None):
        """`places` `(members,)`, ascending, selects from the `num_members` of the split; None: all.

        Only members with weights count. Raises ArchiveError if the blocks have another number.
        """
        self.zoo, self.extents = zoo, extents_of(zoo, split)
        self._starts = np.cumsum([0, *(extent.num_members for extent in self.extents)])
        if self._starts[-1] != num_members:
            raise ArchiveError(
                f"the blocks of the {split} split of zoo {zoo.folder} must hold {num_members} "
                f"members, found {self._starts[-1]}: {REBUILD}"
            )
        self.places = np.arange(num_members) if places is None else places
        self.bounds = np.searchsorted(self.places, self._starts)
        """`(extents + 1,)`: extent k has the members `bounds[k]` to `bounds[k + 1]`."""
        self._verified: set[int] = set()

    def __len__(self) -> int:
        return len(self.places)

    @property
    def digest(self) -> str:
        """sha256 of the members and their order."""
        marks = {extent.shard: self.zoo.marks[extent.shard] for extent in self.extents}
        shards = "".join(mark.sha256 for mark in marks.values()).encode()
        return hashlib.sha256(shards + self.places.tobytes()).hexdigest()

    def fetch(self, members: np.ndarray, into: Block | None = None) -> Block:
        """The state dicts of `members` `(members,)`, stacked in this order.

        Raises ArchiveError if a shard differs from what was committed.
        """
        shapes = {spec.name: (len(members), *spec.shape) for spec in self.zoo.space.tensors}
        fetched = into or {name: torch.empty(shape) for name, shape in shapes.items()}
        places = self.places[members]
        extent = np.searchsorted(self._starts, places, "right") - 1
        order = np.argsort(extent, kind="stable")
        numbers, firsts = np.unique(extent[order], return_index=True)
        for number, index in zip(numbers.tolist(), np.split(order, firsts)[1:], strict=True):
            block = read_extent(self.zoo, self.extents[number], number not in self._verified)
            self._verified.add(number)
            rows = torch.from_numpy(places[index] - self._starts[number])
            where = torch.from_numpy(index)
            for name, values in fetched.items():
                values[where] = block[name][rows]
        return fetched


class Staged:
    """The members of a `Streamed` in memory, with one copy per node."""

    def __init__(self, streamed: Streamed):
        """Raises ArchiveError if a shard differs from what was committed."""
        self._shapes = {spec.name: spec.shape for spec in streamed.zoo.space.tensors}
        self._memory = SharedMemory(
            streamed.digest, num_bytes(streamed), lambda memory: self._fill(memory, streamed)
        )
        self._members = self._laid_out(self._memory.data, len(streamed))

    def _laid_out(self, memory: np.ndarray, num_members: int) -> dict[str, Tensor]:
        """`(members, *shape)` by name, one tensor after another."""
        values, start, tensors = torch.from_numpy(memory.view(np.float32)), 0, {}
        for name, shape in self._shapes.items():
            size = num_members * int(np.prod(shape))
            tensors[name] = values[start : start + size].view(num_members, *shape)
            start += size
        return tensors

    def _fill(self, memory: np.ndarray, streamed: Streamed):
        members = self._laid_out(memory, len(streamed))

        def read(low: int, high: int):
            into = {name: values[low:high] for name, values in members.items()}
            streamed.fetch(np.arange(low, high), into)

        with threads(READERS) as pool:
            list(pool.map(read, streamed.bounds[:-1], streamed.bounds[1:]))

    def fetch(self, members: np.ndarray) -> Block:
        """The state dicts of `members` `(members,)`, stacked in this order."""
        index = torch.from_numpy(members)
        return {name: values.index_select(0, index) for name, values in self._members.items()}


Source = Streamed | Staged


def num_bytes(streamed: Streamed) -> int:
    """Size in memory."""
    return 4 * streamed.zoo.space.num_parameters * len(streamed)


def source_of(streamed: Streamed, in_any_order: bool) -> Source:
    """Staged if members take at most `STAGED_SHARE` of memory or are needed in any order.

    Otherwise streamed. Raises WorkError if they are needed in any order and do not fit.
    """
    wanted, memory = num_bytes(streamed), memory_of_node()
    if in_any_order and wanted > memory:
        raise WorkError(
            f"the members of zoo {streamed.zoo.folder}, which are grouped by signal, must fit into "
            f"the memory of this node, {memory / 1e9:.1f} GB, found {wanted / 1e9:.1f} GB: set "
            "training.members to train on fewer"
        )
    return (
        Staged(streamed)
        if wanted and (in_any_order or wanted <= STAGED_SHARE * memory)
        else streamed
    )
