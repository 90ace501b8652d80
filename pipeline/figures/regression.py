"""Pictures of predicted numbers."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.figures.picture import BLUE, GREY, caption, picture

COLUMNS, SIZE = 3, 3.6
MANY = 5_000
"""Most members to draw, spread evenly over all."""


def draw_predicted(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path):
    """Draw a panel per target: predicted against true, one dot per member, with the diagonal."""
    num_rows, num_columns = -(-len(pairs) // COLUMNS), min(COLUMNS, len(pairs))
    with picture(path, SIZE * num_columns, SIZE * num_rows) as figure:
        panels = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
        for axes in panels[len(pairs) :]:
            axes.set_visible(False)
        for axes, (name, (truth, predicted)) in zip(panels, pairs.items(), strict=False):
            step = -(-len(truth) // MANY) or 1
            axes.axline((0, 0), slope=1, color=GREY, linestyle=":", linewidth=1)
            axes.scatter(truth[::step], predicted[::step], s=10, color=BLUE, alpha=0.4, linewidth=0)
            if len(truth):
                low, high = np.min([truth, predicted]), np.max([truth, predicted])
                margin = 0.04 * (high - low) or 1.0
                axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
            axes.set_aspect("equal")
            axes.set_xlabel(f"true {caption(name, 24)}")
            axes.set_ylabel(f"predicted {caption(name, 24)}")
