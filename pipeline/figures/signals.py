"""Signals as pictures: curves of waves, images, the middle slices of volumes."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from pipeline.figures.picture import BLUE, INK, picture


def draw_signal(
    axes,
    values: np.ndarray,
    title: str,
    value_range: tuple[float, float] | None = (0.0, 1.0),
):
    """Draw `(*grid, channels)` as a curve, a picture or the middle slice of a volume.

    `value_range` None scales it to its own range.
    """
    low, high = value_range or (float(values.min()), float(values.max()))
    if values.ndim == 2:
        axes.plot(values, color=BLUE, linewidth=0.8)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    else:
        image = values if values.ndim == 3 else values[len(values) // 2]
        image = image if image.shape[-1] in (1, 3) else image.mean(-1, keepdims=True)
        shades = ((image - low) / max(high - low, 1e-12)).clip(0, 1)
        axes.imshow(shades, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=9, pad=3, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_rows(
    rows: Mapping[str, np.ndarray], scored: Collection[str], targets: np.ndarray, path: Path
):
    """Draw signals `(signals, *grid, channels)` below each other, one line of pictures per name.

    Those in `scored` have their mean squared error to the targets above them.
    """
    num_columns = len(targets)
    with picture(path, 1.05 * num_columns + 0.6, 1.3 * len(rows)) as figure:
        axes = figure.subplots(len(rows), num_columns, squeeze=False)
        for row, (name, signals) in enumerate(rows.items()):
            errors = np.square(signals - targets).reshape(num_columns, -1).mean(1)
            for place, error in enumerate(errors):
                title = f"{error:.1e}" if name in scored else ""
                draw_signal(axes[row, place], signals[place], title)
            axes[row, 0].set_ylabel(name, fontsize=9)
