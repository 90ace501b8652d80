"""What a source's files were taken as, and which were left out and why: nothing is ignored without a word."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from pipeline.signals.splits import SPLITS

SHOWN = 3
"""Names that the line gives for each reason."""
REASONS = 12
"""Reasons that the line gives."""


def name_below(root: Path, file: Path, row: int | None = None) -> str:
    """The name of a signal: the path of its file below `root`, with `:ROW` where the file holds many.

    Bytes that are not UTF-8 are written as `\\xNN`.
    """
    path = as_text(file.relative_to(root).as_posix())
    return path if row is None else f"{path}:{row}"


def as_text(path: str) -> str:
    """A path with bytes that are not UTF-8 as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def on_one_line(text: str) -> str:
    """A text with the codes of characters that do not print."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def some_of(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    shown = map(on_one_line, names[:SHOWN])
    more = len(names) - SHOWN
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


class Taken:
    """Keeps account while a source is read; as text it is the line that the command prints."""

    def __init__(self, root: Path):
        self.root = root
        self.left_out: dict[str, list[str]] = defaultdict(list)
        self.as_what = ""

    def leave_out(self, why: str, file: Path):
        """`why` in a few words, such as 'hidden' or 'of no class'."""
        self.left_out[why].append(name_below(self.root, file))

    def take(self, what: str, splits: Sequence[str | None], class_names: Sequence[str]):
        """`what` names the signals; `splits` has the source's own split of each, None where it has none."""
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
