"""Training curves."""

from collections.abc import Mapping
from itertools import cycle
from math import nan
from pathlib import Path

from pipeline.figures.picture import COLOURS, GREY, picture
from pipeline.training.evaluate import shown, titled
from pipeline.training.history import History


def draw_curves(histories: Mapping[str, History], path: Path):
    """Draw loss and monitored metric by epoch, one colour per model, validation losses dashed.

    The score of the trivial answer, which ignores the weights, is dotted.
    """
    first = next(iter(histories.values()))
    metric = first.monitor.metric
    factor, unit = (100, ", %") if metric.endswith("accuracy") else (1, "")
    with picture(path, 9, 3.2) as figure:
        loss, score = figure.subplots(1, 2)
        for (name, history), colour in zip(histories.items(), cycle(COLOURS), strict=False):
            epochs = [line.epoch for line in history.epochs]
            train = [line.train_loss for line in history.epochs]
            validation = [line.validation.get("loss", nan) for line in history.epochs]
            values = [factor * history.monitored(line) for line in history.epochs]
            loss.plot(epochs, train, color=colour, label=f"{name}, train")
            loss.plot(epochs, validation, color=colour, ls="--", label=f"{name}, validation")
            score.plot(epochs, values, color=colour, label=name)
        trivial = first.best.validation.get(f"trivial_{metric}")
        if trivial is not None:
            label = f"trivial answer: {shown(metric, trivial)}"
            score.axhline(factor * trivial, color=GREY, linestyle=":", label=label)
        if unit:
            score.set_ylim(0, 100)
        for axes, label in ((loss, "loss"), (score, f"validation {titled(metric)}{unit}")):
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            axes.legend(fontsize=8)
            axes.xaxis.get_major_locator().set_params(integer=True)
