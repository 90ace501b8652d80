"""Progress that reads well in a terminal and in a log file."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

LINE_SECONDS = 5.0
"""How often a log file gets a line."""


def figure(rate: float) -> str:
    """A rate in few digits, small ones too."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def show_line(title: str, text: str):
    """A line beside the bars."""
    sys.stderr.write(f"{title}: {text}\n")
    sys.stderr.flush()


class Progress:
    """A bar where `stream` is a terminal, a line every few seconds where it is not."""

    def __init__(
        self, title: str, total: int, unit: str, done: int = 0, stream: TextIO | None = None
    ):
        """`done` of `total` were done before: they do not count for the rate."""
        self.title, self.total, self.unit = title, total, unit
        self.stream = stream or sys.stderr
        self.first = self.done = done
        self.start, self.last_line = time.monotonic(), -LINE_SECONDS
        self.note, self.shown = "", None
        self.bar = (
            tqdm(total=total, initial=done, desc=title, unit=unit, file=self.stream)
            if self.stream.isatty()
            else None
        )

    def update(self, done: int, note: str):
        """`done` of `total` are done; `note` stands at the end of the line."""
        self.done, self.note = done, note
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(done - self.bar.n)
            self.bar.refresh()
        elif time.monotonic() - self.last_line >= LINE_SECONDS:
            self._line()

    def _line(self):
        self.last_line, self.shown = time.monotonic(), (self.done, self.note)
        seconds = self.last_line - self.start
        rate = (self.done - self.first) / seconds if seconds else 0
        share = 100 * self.done / max(1, self.total)
        self.stream.write(
            f"{self.title}: {self.done:,}/{self.total:,} {self.unit} ({share:.0f} %), {figure(rate)} {self.unit}/s, "
            f"{self.note}, {seconds:.0f} s\n"
        )
        self.stream.flush()

    def close(self):
        if self.bar is not None:
            self.bar.close()
        elif self.shown != (self.done, self.note):
            self._line()
