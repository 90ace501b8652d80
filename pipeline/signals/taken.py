"""Reports how the files of a source were read and which were left out and why."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from pipeline.signals.splits import SPLITS

SHOWN = 3
"""Number of names shown per reason."""
REASONS = 12
"""Number of reasons shown."""


def name_below(root: Path, file: Path, row: int | None = None) -> str:
    """The name of a signal: the path of its file below `root`, with `:ROW` if the file holds many.

    Bytes that are not UTF-8 are written as `\\xNN`.
    """
    path = as_text(file.relative_to(root).as_posix())
    return path if row is None else f"{path}:{row}"


def as_text(path: str) -> str:
    """A path with bytes that are not UTF-8 as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def on_one_line(text: str) -> str:
    """A text in which unprintable characters are replaced by their codes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def some_of(names: Sequence[str]) -> str:
    """The first names, and the number of others."""
    shown = map(on_one_line, names[:SHOWN])
    more = len(names) - SHOWN
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


class Taken:
    """The report while a source is read; `str` gives the line that the command prints."""

    def __init__(self, root: Path):
        self.root = root
        self.left_out: dict[str, list[str]] = defaultdict(list)
        self.as_what = ""

    def leave_out(self, why: str, file: Path):
        """Record a file that is left out; `why` is a few words like 'hidden' or 'of no class'."""
        self.left_out[why].append(name_below(self.root, file))

    def take(self, what: str, splits: Sequence[str | None], class_names: Sequence[str]):
        """Record what was read: `what` names the signals, `splits` are the source's own."""
        counts = Counter(splits)
        several = "class" if len(class_names) == 1 else "classes"
        classes = f"{len(class_names) or 'no'} {several}"
        classes += f" ({some_of(class_names)})" if class_names else ""
        named = ", ".join(f"{split} {counts[split]:,}" for split in SPLITS if split in counts)
        self.as_what = f"{len(splits):,} {what}, {classes}, {named or 'no splits of their own'}"

    def __str__(self) -> str:
        parts = [f"{some_of(names)} ({why})" for why, names in self.left_out.items()]
        if len(parts) > REASONS:
            rest = sum(len(names) for names in [*self.left_out.values()][REASONS:])
            parts[REASONS:] = [f"{rest:,} more for other reasons"]
        return self.as_what + (f"; left out: {', '.join(parts)}" if parts else "")
