"""Pictures of adapting classifiers to another domain."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor

from pipeline.figures.picture import BLUE, GREY, ORANGE, picture

MAX_IMAGES = 12
DOMAINS = {"source": "source_accuracy", "target": "target_accuracy"}


def comparison(table: pa.Table, finetuning_steps: Sequence[int]) -> list[list[str]]:
    """Table of accuracies: of the networks unadapted, adapted, and fine-tuned one by one."""
    unseen = table["is_unseen"].to_numpy()
    states = {"unadapted": "trivial_", "adapted": ""}
    states |= {
        f"fine-tuned one by one, {steps} steps": f"finetuned_{steps}_" for steps in finetuning_steps
    }
    return [
        [title]
        + [
            percent(table[f"{state}{score}"].to_numpy()[mask])
            for mask in (~unseen, unseen)
            for score in DOMAINS.values()
        ]
        for title, state in states.items()
    ]


def percent(shares: np.ndarray) -> str:
    return f"{100 * shares.mean():.1f} %" if len(shares) else ""


def draw_networks(table: pa.Table, path: Path):
    """Plot each network's accuracy on images of the target domain: adapted against unadapted."""
    before, after = (table[f"{state}target_accuracy"].to_numpy() for state in ("trivial_", ""))
    unseen = table["is_unseen"].to_numpy()
    with picture(path, 4.4, 4.2) as figure:
        axes = figure.subplots()
        low = min(before.min(), after.min()) * 100 - 3
        axes.plot([low, 102], [low, 102], color=GREY, linewidth=0.8)
        for mask, colour, name in ((~unseen, BLUE, "seen"), (unseen, ORANGE, "unseen")):
            if mask.any():
                label = f"{name} pairs of classes: {mask.sum()}"
                axes.scatter(100 * before[mask], 100 * after[mask], s=14, color=colour, label=label)
        axes.set_xlim(low, 102)
        axes.set_ylim(low, 102)
        axes.set_aspect("equal")
        axes.set_xlabel("accuracy before adaptation, %")
        axes.set_ylabel("accuracy after adaptation, %")
        axes.legend(fontsize=8, loc="lower right")


def draw_images(source: Tensor, target: Tensor, path: Path):
    """Draw images `(images, height, width, channels)` above the same images, corrupted."""
    count = min(MAX_IMAGES, len(source))
    with picture(path, 0.7 * count + 0.5, 1.7) as figure:
        axes = figure.subplots(2, count, squeeze=False)
        for row, (name, images) in enumerate((("source", source), ("target", target))):
            for place in range(count):
                image = images[place].cpu().numpy()
                axes[row, place].imshow(
                    image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1
                )
                axes[row, place].set_xticks([])
                axes[row, place].set_yticks([])
            axes[row, 0].set_ylabel(name, fontsize=9)
