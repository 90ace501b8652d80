"""Confusion matrices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.figures.picture import caption, picture, text_on

LABEL_WIDTH, MANY_CLASSES = 28, 24
"""Most characters of a class name beside the matrix, and most classes for which cells are large."""
NUM_MISTAKES = 10


def draw_confusion(confusion: Sequence[Sequence[int]], class_names: Sequence[str], path: Path):
    """Draw true classes vertically, predicted ones horizontally, in percent of each true class.

    The picture grows with the number of classes, so that each name can be read.
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
        cells = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="none")
        places = range(len(names))
        axes.set_xticks(places, names, rotation=90 if longest > 3 else 0, fontsize=8)
        axes.set_yticks(places, names, fontsize=8)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        for row, place in zip(*np.nonzero(shares >= least), strict=True):
            colour = text_on(cells.cmap(cells.norm(shares[row, place])))
            style = {"ha": "center", "va": "center", "fontsize": font, "color": colour}
            axes.text(place, row, f"{shares[row, place]:.0f}", in_layout=False, **style)


def most_frequent_mistakes(
    confusion: Sequence[Sequence[int]], class_names: Sequence[str]
) -> list[tuple[str, str, str]]:
    """True class, predicted class and percent of the true class, largest shares first."""
    counts = np.array(confusion, float)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:NUM_MISTAKES]
    pairs = zip(*np.unravel_index(order, shares.shape), strict=True)
    return [
        (class_names[true], class_names[predicted], f"{100 * shares[true, predicted]:.1f} %")
        for true, predicted in pairs
        if shares[true, predicted]
    ]
