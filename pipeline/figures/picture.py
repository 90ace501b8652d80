"""What all pictures share: colours, style, files, captions."""

import io
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from pipeline.archive.files import file_kind, write_atomic
from pipeline.archive.summary import shown
from pipeline.archive.zoo import Zoo
from pipeline.figures.fonts import set_fonts

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours of things that are compared, in order: distinct to colour-blind readers (Okabe and Ito,
jfly.uni-koeln.de/color)."""
BLUE, ORANGE, *_ = COLOURS
INK, GREY = "#333333", "#5d666f"
"""Colours of text, with a contrast to white of 12.6 and 5.9."""
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "font.size": 10,
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be called "$5 to $10"
    "svg.fonttype": "none",  # browsers have fonts for all scripts
    "svg.hashsalt": "dwszoo",
}
KINDS = ("png", "svg")
"""Kinds of pictures, by the suffix of their files."""


def files_of(path: Path) -> list[Path]:
    """The files that a picture is saved to: a PNG and an SVG if `path` has no suffix."""
    return [path] if path.suffix else [path.with_suffix(f".{kind}") for kind in KINDS]


@contextmanager
def picture(path: Path, width: float, height: float):
    """Yield a matplotlib figure of this size in inches, saved to `path` when the block ends.

    The suffix of `path` chooses PNG or SVG; without one, the figure is saved as both.
    """
    files = [(file_kind(file, *KINDS), file) for file in files_of(path)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        for kind, file in reversed(files):  # SVG first: a PNG's text may be changed
            write_atomic(file, content_of(figure, kind))


def content_of(figure: Figure, kind: str) -> bytes:
    """The file of a figure as PNG or SVG. Its layout is kept for the next one."""
    content = io.BytesIO()
    if kind == "png" and set_fonts(figure):
        figure.set_layout_engine("constrained")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # browsers have it, or there was a warning
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(content, format=kind, dpi=160, metadata=metadata)
    figure.set_layout_engine("none")
    return content.getvalue()


def caption(name: str, width: int) -> str:
    """A name on one line of at most `width` characters, shortened in its middle.

    Wide characters count twice.
    """
    text = shown(name)
    sizes = [2 if east_asian_width(character) in "WF" else 1 for character in text]
    if sum(sizes) <= width:
        return text
    ends = np.cumsum(sizes)
    tail = (width - 1) // 3
    head = text[: np.searchsorted(ends, width - 1 - tail, "right")]
    return f"{head}…{text[np.searchsorted(ends, ends[-1] - tail) + 1 :]}"


def luminance(colour: Any) -> float:
    """Relative luminance of a colour, from 0 for black to 1 for white (WCAG 2)."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in to_rgb(colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Any, other: Any) -> float:
    """Contrast of two colours, from 1 to 21; text needs 4.5 to be readable (WCAG 2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def text_on(colour: Any) -> str:
    """Black or white, whichever can be read on this colour."""
    return max("black", "white", key=lambda ink: contrast(ink, colour))


def mark_partial(figure: Figure, zoo: Zoo):
    """State above the picture that a zoo is under construction."""
    if not zoo.is_sealed:
        figure.suptitle(zoo.state, fontsize=10, color=INK)
