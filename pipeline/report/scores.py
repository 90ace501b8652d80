"""Pictures of training: losses and accuracies by epoch."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.figures.picture import BLUE, GREY, ORANGE, picture
from pipeline.training.checkpoint import EpochMetrics


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
