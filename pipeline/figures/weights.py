"""Pictures of weights, for members of any kind."""

from collections.abc import Sequence
from math import ceil, prod
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.compute as pc

from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.figures.picture import INK, caption, mark_partial, picture

MAX_MEMBERS, MAX_TENSORS, MAX_FILTERS = 4, 6, 64
KEY_WIDTH = 18
"""Most characters of a member's key."""
COLOURS = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#c8cdd3")
"""Blue to red, with grey between filters."""
OUTLIERS = 99.0
"""Percentile of absolute values at which the colours of a tensor end."""


def draw_weights(zoo: Zoo, path: Path):
    """Draw the weights of members spread evenly over the zoo, one line of pictures per member.

    A weight is its matrix `(out, in)`; kernels, and rows of a first layer that reads images, are
    pictures side by side. Negative is blue, positive red, on one scale per tensor. Raises
    InputError if no member has weights.
    """
    rows = rows_with_weights(zoo)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, MAX_MEMBERS).round().astype(int))]
    specs = [spec for spec in zoo.space.tensors if len(spec.shape) > 1][:MAX_TENSORS]
    state, keys = zoo[rows], zoo.catalog["key"].take(rows).to_pylist()
    grid = zoo.record.signals.grid if zoo.record.decode.image is not None else ()
    with picture(path, 2.2 * len(specs) + 0.6, 1.7 * len(rows)) as figure:
        mark_partial(figure, zoo)
        axes = figure.subplots(len(rows), len(specs), squeeze=False)
        for column, spec in enumerate(specs):
            weights = state[spec.name].numpy()
            scale = float(np.percentile(np.abs(weights), OUTLIERS)) or 1.0
            for panel, weight in zip(axes[:, column], weights, strict=True):
                filters = filters_of(weight, grid if column == 0 else ())
                panel.imshow(
                    weight.reshape(len(weight), -1) if filters is None else mosaic(filters),
                    cmap=COLOURS,
                    vmin=-scale,
                    vmax=scale,
                    aspect="auto" if filters is None else "equal",
                    interpolation="nearest",
                )
                panel.set_xticks([])
                panel.set_yticks([])
                panel.spines[:].set_visible(False)
            shape = "x".join(map(str, spec.shape))
            axes[0, column].set_title(f"{spec.name} {shape}", fontsize=9, pad=3, color=INK)
        for panel, key in zip(axes[:, 0], keys, strict=True):
            panel.set_ylabel(caption(key, KEY_WIDTH), fontsize=9)


def rows_with_weights(zoo: Zoo) -> np.ndarray:
    """Catalog rows of the members with weights. Raises InputError if there are none."""
    rows = zoo.where(pc.field("status") == "ok")
    if not len(rows):
        raise InputError(
            f"cannot draw zoo {zoo.folder}: none of its members has weights ({zoo.state})"
        )
    return rows


def filters_of(weight: np.ndarray, grid: Sequence[int]) -> np.ndarray | None:
    """`(filters, height, width)` of kernels `(out, in, height, width)` or, if it reads images of
    this grid, of a matrix `(out, channels * pixels)`; None for any other weight."""
    if weight.ndim == 2 and len(grid) == 2 and weight.shape[1] % prod(grid) == 0:
        weight = weight.reshape(len(weight), -1, *grid)
    return weight.reshape(-1, *weight.shape[2:])[:MAX_FILTERS] if weight.ndim == 4 else None


def mosaic(filters: np.ndarray) -> np.ndarray:
    """Filters `(filters, height, width)` tiled into a square, with a line of NaN between them."""
    count, height, width = filters.shape
    columns = ceil(count**0.5)
    lines = ceil(count / columns)
    tiles = np.full((lines * columns, height + 1, width + 1), np.nan, np.float32)
    tiles[:count, :height, :width] = filters
    tiles = tiles.reshape(lines, columns, height + 1, width + 1).swapaxes(1, 2)
    return tiles.reshape(lines * (height + 1), -1)[:-1, :-1]
