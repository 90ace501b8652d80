"""Prefetching in threads."""

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
    """A thread pool; calls that have not started when the block ends are cancelled."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def results(calls: Iterable[Callable[[], Item]], num_threads: int) -> Iterator[Item]:
    """The results of calls, in order. Threads start on the first ones at once and stay ahead of
    the caller; an error is raised when its result is requested.
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
    """The items, prefetched by a thread, which starts on the first at once."""
    made = results(repeat(partial(next, items, END)), num_threads=1)
    return takewhile(lambda item: item is not END, made)


class Lanes:
    """What the lanes of an epoch contribute to its steps. Each lane prefetches its next window."""

    def __init__(
        self,
        epoch: Epoch,
        make: Callable[[int, int], dict[str, Tensor]],
        pool: ThreadPoolExecutor,
    ):
        """`make(lane, window)` returns tensors `(units, ...)` by name, in the order of the lane."""
        self._epoch, self._make, self._pool = epoch, make, pool
        self._windows: dict[int, dict[int, Future]] = defaultdict(dict)

    def _window(self, lane: int, number: int) -> Future:
        windows = self._windows[lane]
        if number not in windows:
            windows[number] = self._pool.submit(self._make, lane, number)
        return windows[number]

    def take(self, steps: range, share: range) -> dict[str, Tensor]:
        """`(steps, units, ...)` tensors by name: the units `share` of each batch."""
        epoch, cuts = self._epoch, self._epoch.order.cuts.tolist()
        lanes = [
            lane
            for lane in range(epoch.order.lanes)
            if cuts[lane] < share.stop and cuts[lane + 1] > share.start
        ]
        pieces = {lane: epoch.pieces(lane, steps) for lane in lanes}
        for lane in lanes:  # start reading them all
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
