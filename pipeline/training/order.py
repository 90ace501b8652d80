"""What each step of an epoch holds: a function of (seed, epoch, step) alone, however many ranks share
it and wherever members are read from.

An epoch is a random order of blocks, cut into streams of equal length, the lanes. A lane shuffles
windows of blocks; each batch has an equal share of every lane. Ranks share out the batch, and with
it the lanes: a block is read by one rank, but for those that lie across a border between two lanes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

LANES, LANE_UNITS = 64, 128
"""At most so many, or in large batches one for so many units: as many ranks read no block twice."""
BLOCKS, WINDOWS = 6, 7
"""Purposes that numbers are drawn for: see `pipeline.training.loader`."""


@dataclass(frozen=True, eq=False)
class Order:
    """Units are what is never split: members, or groups of them. Numbered block by block."""

    sizes: np.ndarray
    """`(blocks,)` units in each block, none of them empty."""
    batch: int
    """Units in a batch, over all ranks together."""
    lanes: int
    window: int
    """Blocks of a lane that are shuffled together."""
    seed: int = 0
    passes: int = 1
    """Times that an epoch goes over its units."""

    @classmethod
    def of(
        cls, sizes: np.ndarray, batch: int, held: int, seed: int = 0, passes: int = 1
    ) -> "Order":
        """The order in which about `held` units are shuffled together: all of them where there are no more, and as many
        times more as there are more lanes than `LANES`.
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
        """`(lanes + 1,)` where each lane's part of a batch begins, and the end."""
        return np.arange(self.lanes + 1) * self.batch // self.lanes

    def share(self, rank: int, world_size: int) -> range:
        """The part of each batch that is a rank's: as even as can be where ranks do not divide it."""
        return range(rank * self.batch // world_size, (rank + 1) * self.batch // world_size)

    def epoch(self, epoch: int) -> "Epoch":
        return Epoch(self, epoch)


@dataclass(frozen=True)
class Piece:
    """Units of a window that come one after another in a lane."""

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
        """Places in the epoch where the windows of a lane begin, and its end.

        What does not fill a batch is in the last window, which is shuffled with it. The first window
        is shorter, lane by lane, so that not all lanes come to a new one at the same time.
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
        """`(units,)` int64: the units of a window in the order in which the lane gives them."""
        places = np.arange(*self._borders[lane][number : number + 2])
        nth = np.searchsorted(self._starts, places, "right") - 1
        units = self._first_units[self._blocks[nth]] + places - self._starts[nth]
        rng = np.random.default_rng([self.order.seed, WINDOWS, self.number, lane, number])
        return rng.permutation(units)

    def pieces(self, lane: int, steps: range) -> list[Piece]:
        """What a lane gives to some steps, one after another."""
        borders, width = self._borders[lane], np.diff(self.order.cuts)[lane]
        start, stop = (borders[0] + step * width for step in (steps.start, steps.stop))
        pieces = []
        for number in range(np.searchsorted(borders, start, "right") - 1, self.num_windows(lane)):
            low, high = borders[number : number + 2]
            if low >= stop:
                break
            pieces.append(Piece(number, int(max(start, low) - low), int(min(stop, high) - low)))
        return pieces
