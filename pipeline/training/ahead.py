"""What is made ahead, in threads, while something else is used."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice, repeat, takewhile
from typing import TypeVar

import torch
from torch import Tensor

from pipeline.training.order import Epoch, Piece

Item = TypeVar("Item")
END = object()


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads; what they have not begun when the block ends is not done."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def results(calls: Iterable[Callable[[], Item]], num_threads: int) -> Iterator[Item]:
    """What calls return, in order; threads make some before they are asked for, the first from now on. What they raise is
    raised where their result is asked for.
    """
    calls, pool = iter(calls), ThreadPoolExecutor(num_threads)
    coming = deque(pool.submit(call) for call in islice(calls, num_threads + 1))

    def in_order() -> Iterator[Item]:
        try:
            while coming:
                item = coming.popleft().result()
                coming.extend(pool.submit(call) for call in islice(calls, 1))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)

    return in_order()


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items, made by a thread before they are asked for, the first from now on."""
    made = results(repeat(partial(next, items, END)), num_threads=1)
    return takewhile(lambda item: item is not END, made)


class Lanes:
    """What the lanes of an epoch give to its steps. The next window of each is made while one is used."""

    def __init__(
        self,
        epoch: Epoch,
        make: Callable[[int, int], dict[str, Tensor]],
        pool: ThreadPoolExecutor,
    ):
        """`make(lane, window)` are tensors `(units, ...)`, by name, in the order in which the lane gives them."""
        self._epoch, self._make, self._pool = epoch, make, pool
        self._windows: dict[int, dict[int, Future]] = defaultdict(dict)

    def _window(self, lane: int, number: int) -> Future:
        windows = self._windows[lane]
        if number not in windows:
            windows[number] = self._pool.submit(self._make, lane, number)
        return windows[number]

    def take(self, steps: range, share: range) -> dict[str, Tensor]:
        """`(steps, units, ...)`: a part of each batch."""
        epoch, cuts = self._epoch, self._epoch.order.cuts.tolist()
        lanes = [
            lane
            for lane in range(epoch.order.lanes)
            if cuts[lane] < share.stop and cuts[lane + 1] > share.start
        ]
        pieces = {lane: epoch.pieces(lane, steps) for lane in lanes}
        for lane in lanes:  # all are read at once
            for piece in pieces[lane]:
                self._window(lane, piece.window)
        taken: dict[str, Tensor] = {}
        for lane in lanes:
            given = self._given(lane, pieces[lane])
            low, high = max(share.start, cuts[lane]), min(share.stop, cuts[lane + 1])
            for name, values in given.items():
                values = values.unflatten(0, (len(steps), -1))
                if name not in taken:
                    taken[name] = values.new_empty(len(steps), len(share), *values.shape[2:])
                taken[name][:, low - share.start : high - share.start] = values[
                    :, low - cuts[lane] : high - cuts[lane]
                ]
        return taken

    def _given(self, lane: int, pieces: list[Piece]) -> dict[str, Tensor]:
        last = pieces[-1].window
        windows = [self._window(lane, piece.window).result() for piece in pieces]
        kept = {number: window for number, window in self._windows[lane].items() if number >= last}
        self._windows[lane] = kept
        if last + 1 < self._epoch.num_windows(lane):
            self._window(lane, last + 1)
        parts = [
            {name: values[piece.start : piece.stop] for name, values in window.items()}
            for window, piece in zip(windows, pieces, strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
