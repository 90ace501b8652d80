"""Batches of members, planned from the catalog.

Every rank gets the same number of batches, and the contents of batch k of an epoch do not depend on
the number of ranks. (WebDataset's own shuffling guarantees neither.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.archive.shard import Block
from pipeline.archive.zoo import Zoo
from pipeline.fit.seeds import member_keys
from pipeline.tasks.columns import batch_columns
from pipeline.tasks.task import Batch, Task
from pipeline.training.ahead import Lanes, ahead, results, threads
from pipeline.training.order import Epoch, Order
from pipeline.training.sources import READERS, Source, Staged, Streamed, source_of
from pipeline.training.views import Views

HELD, HELD_BYTES = 65_536, 2**30
"""Maximum number, and bytes, of members that are shuffled together over all ranks."""
MADE_TOGETHER = 2**24
"""Bytes of the batches that are assembled at once."""
SCORED_TOGETHER = 256
"""Batch size for scoring."""
MEMBERS, VIEWS = 4, 5
"""Purposes of random numbers, in addition to those of `pipeline.training.order`."""
MEMBER = "member of the feed"
"""Key of the member numbers among the tensors of a window, which is no name in a state dict."""


@dataclass(frozen=True)
class Feed:
    """The members of a split that a task is trained or scored on."""

    zoo: Zoo
    split: str
    columns: tuple[str, ...]
    group: int = 1
    """Number of consecutive members of the same signal."""
    members: int | None = None
    """Use only this many, drawn with `seed`; larger numbers include the members of smaller ones."""
    seed: int = 0
    passes: int = 1
    """Number of passes over the members per epoch."""

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
        columns = tuple(dict.fromkeys(task.columns))
        return cls(zoo, split, columns, task.group, members, seed, passes)

    def rows(self) -> pa.Table:
        """Catalog rows of the members."""
        return self.zoo.catalog.take(pa.array(self.positions))

    @cached_property
    def _with_weights(self) -> np.ndarray:
        """`(members,)` int64: catalog positions of the members of the split that have weights."""
        shards = self.zoo.shards
        is_ours = np.repeat(
            [shard.split == self.split for shard in shards],
            [shard.num_members for shard in shards],
        )
        return np.flatnonzero(self._catalog["block"].is_valid().to_numpy() & is_ours.astype(bool))

    @cached_property
    def _places(self) -> np.ndarray | None:
        """Which of those are used, or None for all: signals in a seeded order, with their views."""
        rows = self._with_weights
        if self.members is None or self.members >= len(rows):
            return None
        source, view = (self._catalog[name].to_numpy()[rows] for name in ("source_index", "view"))
        sources, source = np.unique(source, return_inverse=True)
        rank = np.random.default_rng([self.seed, MEMBERS]).permutation(len(sources))[source]
        return np.sort(np.lexsort((view, rank))[: self.members])

    @cached_property
    def positions(self) -> np.ndarray:
        """`(members,)` int64: catalog positions of the members, ascending."""
        places = self._places
        return self._with_weights if places is None else self._with_weights[places]

    @cached_property
    def _catalog(self) -> pa.Table:
        """The columns of the catalog that are needed."""
        naming = () if self.group == 1 and self.members is None else ("source_index", "view")
        return self.zoo.columns(list(dict.fromkeys(("block", *naming, *self.columns))))

    @cached_property
    def _table(self) -> pa.Table:
        """The columns of the members."""
        return self._catalog.select(self.columns).take(self.positions).combine_chunks()

    @cached_property
    def _views(self) -> Views:
        rows = self.positions
        source, view = (self._catalog[name].to_numpy()[rows] for name in ("source_index", "view"))
        return Views(source, view, self.group)

    @cached_property
    def _streamed(self) -> Streamed:
        return Streamed(self.zoo, self.split, len(self._with_weights), self._places)

    @cached_property
    def _source(self) -> Source:
        """Members of one signal may be anywhere in the split, so groups need them in memory."""
        return source_of(self._streamed, in_any_order=self.group > 1)

    @property
    def num_members(self) -> int:
        """Number of members in an epoch, for one pass."""
        return len(self.positions) if self.group == 1 else len(self._views) * self.group

    def num_batches(self, batch_size: int) -> int:
        """Number of batches of `epoch`, which drops an incomplete last batch."""
        return self.passes * (self.num_members // self.group) // (batch_size // self.group)

    def _order(self, batch_size: int) -> Order:
        sizes = np.diff(self._streamed.bounds) if self.group == 1 else np.array([len(self._views)])
        held = min(HELD, HELD_BYTES // self._member_bytes)
        held = held if self.group == 1 else sizes[0]
        return Order.of(sizes, batch_size // self.group, held, self.seed, self.passes)

    @property
    def _member_bytes(self) -> int:
        return 4 * self.zoo.space.num_parameters

    def epoch(
        self,
        epoch: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        first_step: int = 0,
    ) -> Iterator[Batch]:
        """This rank's share of each batch of an epoch from `first_step` on. Prefetching starts now.

        Shares are as even as possible. The contents of a step depend on (seed, epoch, step): the
        concatenated shares of all ranks are the same batch for any world size. If views of a signal
        are grouped, an epoch has `group` random views of each signal, and no share splits a group.
        """
        order = self._order(batch_size)
        share = order.share(rank, world_size)
        if world_size > order.batch:
            raise ValueError(
                f"each of {world_size} ranks must have a part of a batch of {order.batch} units"
            )
        steps = range(first_step, order.num_steps)
        return ahead(self._batches(self._source, order.epoch(epoch), share, steps))

    def _batches(self, source: Source, epoch: Epoch, share: range, steps: range) -> Iterator[Batch]:
        size = len(share) * self.group
        together = max(1, MADE_TOGETHER // (size * self._member_bytes))
        with threads(READERS) as pool:
            lanes = Lanes(epoch, partial(self._window, source, epoch), pool)
            for start in range(0, len(steps), together):
                taken = lanes.take(steps[start : start + together], share)
                taken = {name: values.flatten(0, 2) for name, values in taken.items()}
                members = taken.pop(MEMBER).numpy()
                batch = self._batch(members, taken or source.fetch(members))
                for start in range(0, len(batch), size):
                    yield batch[start : start + size]

    def _window(self, source: Source, epoch: Epoch, lane: int, number: int) -> Block:
        """Members of a window `(units, group)`, with their state dicts unless these are staged."""
        units = epoch.window(lane, number)
        if self.group > 1:
            rng = np.random.default_rng([self.seed, VIEWS, epoch.number, lane, number])
            members = self._views.drawn(units, rng)
        else:
            members = units[:, None]
        state = {} if isinstance(source, Staged) else source.fetch(members.flatten())
        of_units = {name: values.unflatten(0, members.shape) for name, values in state.items()}
        return {MEMBER: torch.from_numpy(members), **of_units}

    def whole(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Every member once, in plan order by blocks; each rank reads a contiguous part.

        If views of a signal are grouped: the first `group` views of each signal.
        """
        if self.group == 1:
            parts = np.split(np.arange(self.num_members), self._streamed.bounds[1:-1])
        else:
            members = self._views.first().flatten()
            size = SCORED_TOGETHER // self.group * self.group
            parts = np.split(members, range(size, len(members), size))
        stretch = slice(*(number * len(parts) // world_size for number in (rank, rank + 1)))
        calls = (partial(self._scored, part) for part in parts[stretch] if len(part))
        yield from chain.from_iterable(results(calls, READERS))

    def _scored(self, members: np.ndarray) -> list[Batch]:
        """Batches of members that are read together."""
        source = self._streamed if self.group == 1 else self._source
        batch = self._batch(members, source.fetch(members))
        return [
            batch[start : start + SCORED_TOGETHER]
            for start in range(0, len(batch), SCORED_TOGETHER)
        ]

    def _batch(self, members: np.ndarray, state: Block) -> Batch:
        """A batch of members of the feed, in page-locked memory if a GPU is in use."""
        batch = Batch(
            state=state,
            columns=batch_columns(self._table.take(pa.array(members)), self.columns),
            positions=torch.from_numpy(self.positions[members]),
            class_names=self.zoo.record.class_names,
        )
        return batch.pin_memory() if torch.cuda.is_initialized() else batch

    def keys(self, epoch: int, batch: Batch) -> Tensor:
        """`(batch,)` int64: the key of each member's random augmentation in this epoch."""
        positions = batch.positions.cpu().numpy()
        return torch.from_numpy(
            member_keys(self.seed, np.full_like(positions, epoch), positions).view(np.int64)
        )


class LearnedFrom(Zoo):
    """The zoo of a feed for `Task.prepare`: its `members` of the feed's split are the feed's."""

    def __init__(self, feed: Feed):
        vars(self).update(vars(feed.zoo))  # including its cached catalog and shards
        self.feed = feed

    def members(self, split: str) -> pa.Table:
        return self.feed.rows() if split == self.feed.split else super().members(split)
