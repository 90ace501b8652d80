"""Pictures of zoos and of training, as files."""

import io
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from unicodedata import east_asian_width

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from pipeline.archive.files import file_kind, write_atomic
from pipeline.archive.zoo import Zoo
from pipeline.config import ZooConfig
from pipeline.report.fonts import set_fonts
from pipeline.training.checkpoint import EpochMetrics

BLUE, ORANGE, GREY = "#2f6db3", "#d9772b", "#7a828c"
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#333",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "font.size": 10,
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be called "$5 to $10"
    "svg.fonttype": "none",  # a browser has fonts for all scripts
    "svg.hashsalt": "dwszoo",
}
KINDS = ("png", "svg")
"""Of pictures, by the ending of their names."""
LABEL_WIDTH, MANY_CLASSES = 28, 24
"""Characters of a class name beside the confusion matrix, and classes up to which its cells are large."""


@contextmanager
def picture(path: Path, width: float, height: float):
    """A matplotlib figure of so many inches, saved to `path` (PNG or SVG by its suffix) when the block ends."""
    kind = file_kind(path, *KINDS)
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        metadata = {"Date": None} if kind == "svg" else None
        if kind != "svg":
            set_fonts(figure)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a browser has it, or a warning was given
            figure.savefig(content, format=kind, dpi=160, metadata=metadata)
    write_atomic(path, content.getvalue())


def caption(name: str, width: int) -> str:
    """A name on one line of at most so many characters, wide ones counted twice: its middle gives way."""
    text = " ".join(name.split())
    sizes = [2 if east_asian_width(character) in "WF" else 1 for character in text]
    if sum(sizes) <= width:
        return text
    ends = np.cumsum(sizes)
    tail = (width - 1) // 3
    head = text[: np.searchsorted(ends, width - 1 - tail, "right")]
    return f"{head}…{text[np.searchsorted(ends, ends[-1] - tail) + 1 :]}"


def mark_partial(figure: Figure, zoo: Zoo):
    """Say above all else that a zoo is under construction."""
    if not zoo.is_sealed:
        figure.suptitle(zoo.state, fontsize=10, color=ORANGE)


def psnr_of(zoo: Zoo) -> np.ndarray:
    """`(members,)` dB of those that have one; none where the catalog has no such column."""
    if "psnr" not in zoo.catalog.column_names:
        return np.zeros(0)
    values = zoo.catalog["psnr"].drop_null()
    return values.to_numpy() if pa.types.is_floating(values.type) else np.zeros(0)


def draw_psnr(zoo: Zoo, path: Path):
    """How well the members fit: a histogram of their PSNR."""
    psnr, config = psnr_of(zoo), zoo.record.config
    with picture(path, 6, 2.8) as figure:
        axes = figure.subplots()
        axes.hist(psnr, bins=60, color=BLUE)
        axes.axvline(float(np.median(psnr)), color=ORANGE, label=f"median {np.median(psnr):.1f} dB")
        target = config.fit.target_psnr if isinstance(config, ZooConfig) else None
        if target is not None:
            axes.axvline(target, color=GREY, linestyle="--", label=f"stop target {target:g} dB")
        axes.set_xlabel("PSNR of the stored weights, dB")
        axes.set_ylabel("INRs")
        axes.legend(fontsize=8)


def draw_curves(runs: dict[str, Sequence[EpochMetrics]], majority_accuracy: float, path: Path):
    """Loss and validation accuracy by epoch: one colour a run, solid on the train split, dashed on validation.

    `majority_accuracy` is what always answering the most frequent class scores there.
    """
    with picture(path, 9, 3.2) as figure:
        loss, accuracy = figure.subplots(1, 2)
        for (name, history), colour in zip(runs.items(), (BLUE, ORANGE), strict=False):
            epochs = [metrics.epoch for metrics in history]
            loss.plot(
                epochs,
                [metrics.train_loss for metrics in history],
                color=colour,
                label=f"{name}, train",
            )
            loss.plot(
                epochs,
                [metrics.validation_loss for metrics in history],
                color=colour,
                ls="--",
                label=f"{name}, validation",
            )
            accuracy.plot(
                epochs,
                [100 * metrics.validation_accuracy for metrics in history],
                color=colour,
                label=name,
            )
        label = f"always the most frequent class: {100 * majority_accuracy:.1f} %"
        accuracy.axhline(100 * majority_accuracy, color=GREY, linestyle=":", label=label)
        accuracy.set_ylim(0, 100)
        for axes, label in ((loss, "cross-entropy"), (accuracy, "validation accuracy, %")):
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            axes.legend(fontsize=8)
            axes.xaxis.get_major_locator().set_params(integer=True)


def draw_confusion(confusion: Sequence[Sequence[int]], class_names: Sequence[str], path: Path):
    """True classes as rows, predicted ones as columns, each cell the share of its row in percent.

    Grows with the number of classes, so that each name can be read.
    """
    counts = np.array(confusion, float)
    shares = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))
    names = [caption(name, LABEL_WIDTH) for name in class_names]
    if len(set(names)) < len(names):
        names = [f"{number} {name}" for number, name in enumerate(names)]
    longest = max(map(len, names))
    is_small = len(names) <= MANY_CLASSES
    cell, font, least = (0.42, 8, 0.5) if is_small else (0.24, 6, 5)
    size = max(3.0, cell * len(names)) + 0.6 + 0.09 * longest
    with picture(path, size, size) as figure:
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="none")
        places = range(len(names))
        axes.set_xticks(places, names, rotation=90 if longest > 3 else 0, fontsize=8)
        axes.set_yticks(places, names, fontsize=8)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        for row, place in zip(*np.nonzero(shares >= least), strict=True):
            colour = "white" if shares[row, place] > 50 else "#333"
            style = {"ha": "center", "va": "center", "fontsize": font, "color": colour}
            axes.text(place, row, f"{shares[row, place]:.0f}", in_layout=False, **style)
