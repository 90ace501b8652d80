"""Batches of members, planned from the catalog.

Every rank gets the same number of batches, and what batch number k of an epoch holds does not depend on how many ranks
share it. (WebDataset's own shuffling gives neither.)
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipeline.archive.record import ShardRecord
from pipeline.archive.zoo import Zoo
from pipeline.fit.seeds import member_keys
from pipeline.tasks.columns import batch_columns
from pipeline.tasks.task import Batch, Task

WINDOW = 65_536
"""Members held and shuffled together."""
SCORED_TOGETHER = 256
"""Members of a batch that is scored, where views of a signal come together."""
MEMBERS, VIEWS = 4, 5
"""Purposes that numbers are drawn for, beside the order of an epoch."""


@dataclass(frozen=True)
class Feed:
    """The members of a split that a task learns from, or is scored on."""

    zoo: Zoo
    split: str
    columns: tuple[str, ...]
    group: int = 1
    """Members of one signal that come one after another."""
    members: int | None = None
    """So many alone, drawn from `seed`; a larger number has those of a smaller one."""
    seed: int = 0
    passes: int = 1
    """Times that an epoch goes over its members."""

    @classmethod
    def of(
        cls,
        task: Task,
        zoo: Zoo,
        split: str,
        members: int | None = None,
        seed: int = 0,
        passes: int = 1,
    ):
        return cls(zoo, split, tuple(task.columns), task.group, members, seed, passes)

    def rows(self) -> pa.Table:
        """Catalog rows of the members, with their `position` in the catalog."""
        shards = {shard.name: start for shard, start in self._starts()}
        tables = [self._rows_of(name, start) for name, start in shards.items()]
        if not tables:
            return self.zoo.catalog.slice(0, 0).append_column("position", pa.array([], pa.int64()))
        return self._chosen(pa.concat_tables(tables))

    def _chosen(self, rows: pa.Table) -> pa.Table:
        """`members` of the rows: signals in an order drawn from the seed, each with its views."""
        if self.members is None or self.members >= len(rows):
            return rows
        sources, source = np.unique(rows["source_index"].to_numpy(), return_inverse=True)
        rank = np.random.default_rng([self.seed, MEMBERS]).permutation(len(sources))[source]
        order = np.lexsort((rows["view"].to_numpy(), rank))
        return rows.take(np.sort(order[: self.members]))

    def _starts(self) -> Iterator[tuple[ShardRecord, int]]:
        """The shards of the split, and where in the catalog each begins."""
        start = 0
        for shard in self.zoo.shards:
            if shard.split == self.split:
                yield shard, start
            start += shard.num_members

    def _rows_of(self, shard: str, start: int) -> pa.Table:
        table = self.zoo.parts[shard].table
        positions = pa.array(np.arange(start, start + len(table)))
        table = table.append_column("position", positions)
        return table.filter(pc.field("status") == "ok")

    def num_batches(self, batch_size: int) -> int:
        """Batches of `epoch`; the members that do not fill one are left out of that epoch."""
        if self.group > 1:
            return self.passes * (self.num_members // batch_size)
        return self.passes * self.num_members // batch_size

    @property
    def num_members(self) -> int:
        """Members that an epoch goes over."""
        rows = self.rows()
        if self.group == 1:
            return len(rows)
        views = np.unique(rows["source_index"].to_numpy(), return_counts=True)[1]
        return int((views >= self.group).sum()) * self.group

    def epoch(
        self, epoch: int, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """This rank's share of each batch of an epoch: `batch_size / world_size` members.

        In an order drawn from (seed, epoch). Shards come in random order; the members of a window of shards are shuffled
        together. Where views of a signal come together, the window is the whole split: of each signal `group` of its views,
        drawn anew each epoch.
        """
        share = batch_size // world_size
        rng = np.random.default_rng([self.seed, epoch])
        waiting: list[Batch] = []
        passes = (self._windows(rng) for _ in range(self.passes))
        for window in chain.from_iterable(passes):
            whole = concatenate([*waiting, window])
            order = torch.from_numpy(self._order(whole, rng))
            full = len(order) // batch_size * batch_size
            for start in range(rank * share, full, batch_size):
                yield whole.take(order[start : start + share])
            waiting = [whole.take(order[full:])] if self.group == 1 else []

    def _windows(self, rng: np.random.Generator) -> Iterator[Batch]:
        chosen = None if self.members is None else self.rows()["position"].to_numpy()
        shards = list(self._starts())
        waiting: list[Batch] = []
        for number in rng.permutation(len(shards)):
            waiting += self._blocks(*shards[number], chosen)
            if self.group == 1 and sum(map(len, waiting)) >= WINDOW:
                yield concatenate(waiting)
                waiting = []
        if waiting:
            yield concatenate(waiting)

    def _order(self, batch: Batch, rng: np.random.Generator) -> np.ndarray:
        """Places of the members in a random order; groups of views one after another."""
        shuffled = rng.permutation(len(batch))
        if self.group == 1:
            return shuffled
        source = batch.columns["source_index"].numpy()[shuffled]
        return shuffled[groups_of(source, self.group, rng)]

    def whole(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Every member once, in the order of the plan, block by block; ranks take turns.

        Where views of a signal come together: of each signal its first `group` views, signal by signal.
        """
        for number, batch in enumerate(self._in_order()):
            if number % world_size == rank:
                yield batch

    def _in_order(self) -> Iterator[Batch]:
        chosen = None if self.members is None else self.rows()["position"].to_numpy()
        blocks = (
            block for shard, start in self._starts() for block in self._blocks(shard, start, chosen)
        )
        if self.group == 1:
            yield from blocks
            return
        whole = concatenate(list(blocks))
        order = np.lexsort((whole.columns["view"].numpy(), whole.columns["source_index"].numpy()))
        source = whole.columns["source_index"].numpy()[order]
        order = torch.from_numpy(order[groups_of(source, self.group)])
        for start in range(0, len(order), together := SCORED_TOGETHER // self.group * self.group):
            yield whole.take(order[start : start + together])

    def _blocks(self, shard: ShardRecord, start: int, chosen: np.ndarray | None) -> list[Batch]:
        """The blocks of a shard with their columns; of the chosen members alone."""
        rows, names = self._rows_of(shard.name, start), list(self.columns)
        if self.group > 1:
            names += [name for name in ("source_index", "view") if name not in names]
        batches, place = [], 0
        for block in self.zoo.shard(shard.name):
            part = rows.slice(place, len(next(iter(block.values()))))
            place += len(part)
            positions = part["position"].to_numpy()
            columns, class_names = batch_columns(part, names), self.zoo.record.class_names
            batch = Batch(block, columns, torch.tensor(positions), class_names)
            if chosen is not None:
                batch = batch.take(torch.from_numpy(np.flatnonzero(np.isin(positions, chosen))))
            if len(batch):
                batches.append(batch)
        return batches

    def keys(self, epoch: int, batch: Batch) -> torch.Tensor:
        """`(batch,)` int64: what each member's augmentation is drawn from in this epoch."""
        positions = batch.positions.cpu().numpy()
        return torch.from_numpy(
            member_keys(self.seed, np.full_like(positions, epoch), positions).view(np.int64)
        )


class LearnedFrom(Zoo):
    """The zoo of a feed as a task may take facts from it: `members` of the feed's split are those of the feed."""

    def __init__(self, feed: Feed):
        zoo = feed.zoo
        super().__init__(zoo.folder, zoo.record, zoo.shards, zoo._seal, zoo.trusted)
        self.feed = feed

    def members(self, split: str) -> pa.Table:
        return self.feed.rows() if split == self.feed.split else super().members(split)


def groups_of(source: np.ndarray, size: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Places of the first `size` members of each source that has as many, source after source.

    Sources come as they first appear, or in an order drawn from `rng`.
    """
    order = np.argsort(source, kind="stable")
    _, starts, counts = np.unique(source[order], return_index=True, return_counts=True)
    starts = starts[counts >= size]
    starts = starts if rng is None else rng.permutation(starts)
    return order[(starts[:, None] + np.arange(size)).flatten()]


def concatenate(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    columns = {}
    for name, values in first.columns.items():
        parts = [batch.columns[name] for batch in batches]
        is_tensor = isinstance(values, torch.Tensor)
        columns[name] = torch.cat(parts) if is_tensor else list(chain.from_iterable(parts))
    state = {name: torch.cat([batch.state[name] for batch in batches]) for name in first.state}
    positions = torch.cat([batch.positions for batch in batches])
    return replace(first, state=state, columns=columns, positions=positions)
