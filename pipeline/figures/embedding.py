"""Vectors of networks in the plane, coloured by class and by facts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from pipeline.figures.picture import COLOURS, GREY, caption, picture

POINTS, NAMED, LABEL_WIDTH = 3000, 20, 18
"""Most points to draw, spread evenly over all; most classes in a legend; most characters of a
name."""
NO_CLASS, MARKERS = "#c8cdd3", ("o", "^", "s")


def draw_embedding(
    vectors: np.ndarray,
    labels: np.ndarray | None,
    class_names: Sequence[str],
    numbers: Mapping[str, np.ndarray],
    path: Path,
):
    """Plot the first two principal components of `(members, width)` vectors.

    One panel is coloured by class (`labels` `(members,)`, -1 for none) and one by each of `numbers`
    `(members,)`; without either there is one panel in grey.
    """
    from sklearn.decomposition import PCA

    components = PCA(2, svd_solver="full").fit(vectors)
    drawn = np.linspace(0, len(vectors) - 1, min(POINTS, len(vectors))).round().astype(int)
    places = components.transform(vectors[drawn])
    panels = (labels is not None) + len(numbers) or 1
    with picture(path, 5.4 * panels, 4.2) as figure:
        panel = iter(figure.subplots(1, panels, squeeze=False)[0])
        if labels is not None:
            scatter_classes(next(panel), places, labels[drawn], class_names)
        for name, values in numbers.items():
            axes = next(panel)
            points = axes.scatter(*places.T, s=7, c=values[drawn], cmap="viridis", linewidths=0)
            figure.colorbar(points, ax=axes, label=name.replace("_", " "))
        for axes in panel:
            axes.scatter(*places.T, s=7, color=GREY, linewidths=0)
        for axes in figure.axes[:panels]:
            shares = 100 * components.explained_variance_ratio_
            axes.set_xlabel(f"{shares[0]:.0f} % of the variance")
            axes.set_ylabel(f"{shares[1]:.0f} %")
            axes.set_xticks([])
            axes.set_yticks([])


def scatter_classes(axes, places: np.ndarray, labels: np.ndarray, names: Sequence[str]):
    """Plot with a colour and a marker per class, and a legend if there are few classes.

    Many classes are shades of one colour map; members without a class are grey.
    """
    for label in np.unique(labels):
        own, name = places[labels == label], names[label] if label >= 0 else "no class"
        shape, place = divmod(int(label), len(COLOURS))
        if label < 0:
            colour, marker = NO_CLASS, "o"
        elif len(names) <= NAMED:
            colour, marker = COLOURS[place], MARKERS[shape]
        else:
            colour, marker = matplotlib.colormaps["viridis"](label / (len(names) - 1)), "o"
        style = {"color": colour, "marker": marker, "linewidths": 0}
        axes.scatter(*own.T, s=7, label=caption(name, LABEL_WIDTH), **style)
    if len(names) <= NAMED:
        axes.legend(fontsize=8, markerscale=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
