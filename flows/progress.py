"""Progress that reads well in a terminal and in a log file."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

LINE_SECONDS = 5.0
"""How often a log file gets a line."""


class Progress:
    """A bar where `stream` is a terminal, a line every few seconds where it is not."""

    def __init__(self, title: str, total: int, unit: str, stream: TextIO | None = None):
        self.title, self.total, self.unit = title, total, unit
        self.stream = stream or sys.stderr
        self.done, self.first, self.start = 0, None, time.monotonic()
        self.last_line, self.note = 0.0, ""
        self.bar = tqdm(total=total, desc=title, unit=unit, file=self.stream, leave=True) if self.stream.isatty() else None

    def update(self, done: int, note: str):
        """`done` of `total` are done, of which what the first call had was done before; `note` stands at the end."""
        if self.first is None:
            self.first = done
            if self.bar is not None:
                self.bar.initial = self.bar.n = done
        self.done, self.note = done, note
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(done - self.bar.n)
        elif time.monotonic() - self.last_line >= LINE_SECONDS:
            self._line()

    def _line(self):
        self.last_line = time.monotonic()
        seconds = self.last_line - self.start
        rate = (self.done - (self.first or 0)) / seconds if seconds else 0
        share = 100 * self.done / max(1, self.total)
        self.stream.write(
            f"{self.title}: {self.done:,}/{self.total:,} {self.unit} ({share:.0f} %), {rate:,.0f} {self.unit}/s, "
            f"{self.note}, {seconds:.0f} s\n"
        )
        self.stream.flush()

    def close(self):
        if self.bar is not None:
            self.bar.close()
        else:
            self._line()
