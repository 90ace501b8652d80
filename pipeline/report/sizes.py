"""Metrics by the number of members trained on."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.figures.picture import COLOURS, GREY, picture
from pipeline.training.evaluate import scalars, titled

TRIVIAL = "trivial_"
WIDE = 3.0
"""An axis is logarithmic if the ratio of its largest to its smallest value is above this."""


def draw_sizes(models: Mapping[int, Sequence[tuple[str, Mapping[str, Any]]]], path: Path):
    """Draw a panel for the monitored metric and for each with a trivial answer, which is dotted.

    For several seeds, mean and range are drawn. `models` has titles and test metrics by the number
    of members.
    """
    _, first = next(iter(models.values()))[0]
    known = dict(scalars(first))
    metrics = [name for name in known if name == first["monitor"] or TRIVIAL + name in known]
    with picture(path, 4.2 * len(metrics), 3.4) as figure:
        for axes, metric in zip(
            figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
        ):
            draw_metric(axes, metric, models, known.get(TRIVIAL + metric))


def draw_metric(
    axes,
    metric: str,
    models: Mapping[int, Sequence[tuple[str, Mapping[str, Any]]]],
    trivial: float | None,
):
    drawn = [] if trivial is None else [trivial]
    for (title, points), colour in zip(
        by_title(metric, models).items(), cycle(COLOURS), strict=False
    ):
        sizes, values = list(points), list(points.values())
        low, high = [min(some) for some in values], [max(some) for some in values]
        drawn += low + high
        axes.plot(
            sizes, [np.mean(some) for some in values], color=colour, marker="o", ms=3, label=title
        )
        axes.fill_between(sizes, low, high, color=colour, alpha=0.2, linewidth=0)
    if trivial is not None:
        axes.axhline(trivial, color=GREY, linestyle=":", label=f"trivial answer: {trivial:.4g}")
    axes.set_xscale("log")
    axes.set_xticks(list(models), [f"{size:,}" for size in models])
    axes.set_xticks([], minor=True)
    if min(drawn) > 0 and max(drawn) > WIDE * min(drawn) and not metric.endswith("accuracy"):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # not as powers of ten
        axes.yaxis.set_minor_formatter("")
    axes.set_xlabel("members trained on")
    axes.set_ylabel(f"test {titled(metric)}")
    axes.legend(fontsize=8)


def by_title(
    metric: str, models: Mapping[int, Sequence[tuple[str, Mapping[str, Any]]]]
) -> dict[str, dict[int, list[float]]]:
    """Values of all seeds, by model title (without the seed) and number of members."""
    values: dict[str, dict[int, list[float]]] = {}
    for size, some in models.items():
        for title, metrics in some:
            of_title = values.setdefault(title.partition(", seed ")[0], {})
            of_title.setdefault(size, []).append(metrics[metric])
    return values
