"""The order of an epoch, in which each step is a function of (seed, epoch, step) alone.

It does not depend on the number of ranks, nor on where members are read from.

An epoch is a random order of blocks, cut into streams of equal length, the lanes. A lane shuffles
windows of blocks; each batch takes an equal share of every lane. Ranks divide the batch between
them, and with it the lanes, so a block is read by one rank unless it crosses a border between
lanes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

LANES, LANE_UNITS = 64, 128
"""The largest number of lanes, or in large batches one lane per so many units. Up to as many ranks
read no block twice."""
BLOCKS, WINDOWS = 6, 7
"""Streams of random numbers, besides those of `pipeline.training.loader`."""


@dataclass(frozen=True, eq=False)
class Order:
    """Units are never split: members, or groups of members. They are numbered block by block."""

    sizes: np.ndarray
    """`(blocks,)` units in each block, none of them empty."""
    batch: int
    """Units per batch, over all ranks together."""
    lanes: int
    window: int
    """Blocks of a lane that are shuffled together."""
    seed: int = 0
    passes: int = 1
    """Passes over the units in one epoch."""

    @classmethod
    def of(
        cls, sizes: np.ndarray, batch: int, held: int, seed: int = 0, passes: int = 1
    ) -> "Order":
        """An order in which about `held` units are shuffled together: all of them if there are no
        more, and proportionally more if there are more than `LANES` lanes.
        """
        sizes = sizes[sizes > 0]
        if sizes.sum() <= held:
            return cls(sizes, batch, 1, max(1, len(sizes)), seed, passes)
        largest = int(sizes.max())
        most = max(LANES, batch // LANE_UNITS)
        held = held * most // LANES
        lanes = max(1, min(most, batch, held // largest))
        return cls(sizes, batch, lanes, max(1, held // (lanes * largest)), seed, passes)

    @cached_property
    def num_steps(self) -> int:
        return self.passes * int(self.sizes.sum()) // self.batch

    @property
    def cuts(self) -> np.ndarray:
        """`(lanes + 1,)`: the start of each lane's part of a batch, and the end."""
        return np.arange(self.lanes + 1) * self.batch // self.lanes

    def share(self, rank: int, world_size: int) -> range:
        """A rank's part of each batch; parts are as even as possible."""
        return range(rank * self.batch // world_size, (rank + 1) * self.batch // world_size)

    def epoch(self, epoch: int) -> "Epoch":
        return Epoch(self, epoch)


@dataclass(frozen=True)
class Piece:
    """Consecutive units of a window in a lane."""

    window: int
    start: int
    stop: int


class Epoch:
    def __init__(self, order: Order, epoch: int):
        rng = np.random.default_rng([order.seed, BLOCKS, epoch])
        passes = [rng.permutation(len(order.sizes)) for _ in range(order.passes)]
        self.order, self.number = order, epoch
        self._blocks = np.concatenate(passes)
        self._starts = np.cumsum([0, *order.sizes[self._blocks]])
        self._first_units = np.cumsum([0, *order.sizes])
        self._borders = [self._borders_of(lane) for lane in range(order.lanes)]

    def _borders_of(self, lane: int) -> np.ndarray:
        """Positions in the epoch at which the windows of a lane begin, and its end.

        Units left over after the last full batch are shuffled as part of the last window. The first
        window gets shorter from lane to lane, so that lanes do not all start a new one at once.
        """
        order, starts = self.order, self._starts
        low, high = order.num_steps * order.cuts[lane : lane + 2]
        if lane == order.lanes - 1:
            high = starts[-1]
        first = np.searchsorted(starts, low, "right") - 1
        first += order.window - lane * order.window // order.lanes
        borders = starts[first : np.searchsorted(starts, high) : order.window]
        return np.array([low, *borders[borders > low], high])

    def num_windows(self, lane: int) -> int:
        return len(self._borders[lane]) - 1

    def window(self, lane: int, number: int) -> np.ndarray:
        """`(units,)` int64: the units of a window, in the order of the lane."""
        places = np.arange(*self._borders[lane][number : number + 2])
        nth = np.searchsorted(self._starts, places, "right") - 1
        units = self._first_units[self._blocks[nth]] + places - self._starts[nth]
        rng = np.random.default_rng([self.order.seed, WINDOWS, self.number, lane, number])
        return rng.permutation(units)

    def pieces(self, lane: int, steps: range) -> list[Piece]:
        """A lane's contribution to some steps, in order."""
        borders, width = self._borders[lane], np.diff(self.order.cuts)[lane]
        start, stop = (borders[0] + step * width for step in (steps.start, steps.stop))
        pieces = []
        for number in range(np.searchsorted(borders, start, "right") - 1, self.num_windows(lane)):
            low, high = borders[number : number + 2]
            if low >= stop:
                break
            pieces.append(Piece(number, int(max(start, low) - low), int(min(stop, high) - low)))
        return pieces
