"""Pictures of training: losses and accuracies by epoch, and what a model takes for what."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.report.figure import BLUE, GREY, ORANGE, caption, picture
from pipeline.training.checkpoint import EpochMetrics

LABEL_WIDTH, MANY_CLASSES = 28, 24
"""Characters of a class name beside the confusion matrix, and classes up to which its cells are large."""


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
