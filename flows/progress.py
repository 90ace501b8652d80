"""Progress for terminals, notebooks and log files."""

import os
import sys
import time
from collections import deque
from typing import Any, TextIO

from tqdm.auto import tqdm  # in a notebook with ipywidgets, bars are widgets

from flows.tracker import tracker

LINE_SECONDS = 5.0
"""How often a log file gets a line."""
RATE_SECONDS = 30.0
"""Time over which the rate is averaged; longer if there was no progress in it."""


def figure(rate: float) -> str:
    """A rate in few digits."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def show_line(title: str, text: str):
    """Write a line besides the bars."""
    sys.stderr.write(f"{title}: {text}\n")
    sys.stderr.flush()


class Rate:
    """The current rate of progress, excluding the time to start."""

    def __init__(self, done: int):
        self.done = done
        self.marks: deque[tuple[float, int]] = deque()
        """Times of progress, and the amount done then."""

    def update(self, done: int):
        now = time.monotonic()
        if done != self.done:
            self.done = done
            self.marks.append((now, done))
        while len(self.marks) > 2 and self.marks[1][0] <= now - RATE_SECONDS:
            self.marks.popleft()

    def per_second(self) -> float:
        """The rate; 0 until it is known, after progress was made twice."""
        if len(self.marks) < 2:
            return 0.0
        since, before = self.marks[0]
        seconds = time.monotonic() - since
        return max(0, self.done - before) / seconds if seconds else 0.0


class Bar(tqdm):
    """A tqdm bar that shows our `Rate`."""

    def __init__(self, rate: Rate, **options: Any):
        self.ours = rate
        super().__init__(**options)

    @property
    def format_dict(self) -> dict[str, Any]:
        return {**super().format_dict, "rate": self.ours.per_second()}


def draws_bars(stream: TextIO, bar: type = Bar) -> bool:
    """Whether this is a terminal that can draw a bar, or a notebook in which bars are widgets."""
    is_widget = any(base.__module__ == "tqdm.notebook" for base in bar.__mro__)
    return is_widget or (stream.isatty() and os.environ.get("TERM") != "dumb")


class Progress:
    """A bar where `stream` can draw one, otherwise a line every few seconds."""

    def __init__(
        self, title: str, total: int, unit: str, done: int = 0, stream: TextIO | None = None
    ):
        """`done` of `total` were done before, and do not count for the rate."""
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self.stream = stream or sys.stderr
        self.start, self.last_line = time.monotonic(), -LINE_SECONDS
        self.note, self.shown = "", (done, "")
        self.rate = Rate(done)
        self.bar = (
            Bar(self.rate, total=total, initial=done, desc=title, unit=unit, file=self.stream)
            if draws_bars(self.stream)
            else None
        )

    def update(self, done: int, note: str):
        """`done` of `total` are done; `note` is shown at the end of the line."""
        self.done, self.note = done, note
        self.rate.update(done)
        tracker.get().progress(self.title, done, self.total, note)
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.n = done
            self.bar.refresh()
        elif time.monotonic() - self.last_line >= LINE_SECONDS:
            self._line()

    def _line(self):
        self.last_line, self.shown = time.monotonic(), (self.done, self.note)
        share = 100 * self.done // max(1, self.total)
        rate = self.rate.per_second()
        self.stream.write(
            f"{self.title}: {self.done:,}/{self.total:,} {self.unit} ({share} %), "
            + (f"{figure(rate)} {self.unit}/s, " if rate else "")
            + f"{self.note}, {self.last_line - self.start:.0f} s\n"
        )
        self.stream.flush()

    def close(self):
        """Finish the bar; one that never moved is erased."""
        if self.bar is not None:
            self.bar.leave = self.shown != (self.done, self.note)
            self.bar.close()
        elif self.shown != (self.done, self.note):
            self._line()
