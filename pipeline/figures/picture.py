"""What all pictures share: style, files, captions."""

import io
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pipeline.archive.files import file_kind, write_atomic
from pipeline.archive.summary import shown
from pipeline.archive.zoo import Zoo
from pipeline.figures.fonts import set_fonts

BLUE, ORANGE, GREY = "#2f6db3", "#d9772b", "#7a828c"
COLOURS = (BLUE, ORANGE, "#4f9d69", "#8e5ea2", "#c44e52", "#8c6d46", "#3aa6a6")
"""Colours of models that are compared, in order."""
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#333",
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


@contextmanager
def picture(path: Path, width: float, height: float):
    """Yield a matplotlib figure of this size in inches, saved to `path` when the block ends.

    The suffix of `path` chooses PNG or SVG.
    """
    kind = file_kind(path, *KINDS)
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        metadata = {"Date": None} if kind == "svg" else None
        if kind != "svg":
            set_fonts(figure)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # browsers have it, or there was a warning
            figure.savefig(content, format=kind, dpi=160, metadata=metadata)
    write_atomic(path, content.getvalue())


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


def mark_partial(figure: Figure, zoo: Zoo):
    """State above the picture that a zoo is under construction."""
    if not zoo.is_sealed:
        figure.suptitle(zoo.state, fontsize=10, color=ORANGE)
