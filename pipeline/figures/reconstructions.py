"""Pictures of zoos of INRs: their signals, what they render, and how well."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipeline.archive.zoo import Zoo, column
from pipeline.config import ZooConfig
from pipeline.decode import coordinates_of
from pipeline.errors import InputError
from pipeline.figures.picture import BLUE, GREY, ORANGE, caption, mark_partial, picture
from pipeline.figures.signals import draw_signal
from pipeline.figures.weights import rows_with_weights
from pipeline.signals import Signals

MAX_COLUMNS, MAX_MEMBERS = 10, 3
COLUMN_WIDTH = 13
"""Most characters of a column's title."""
CHARACTERS = 15
"""Characters per inch of the line at the foot."""
GRIDS = {1: (256,), 2: (64, 64), 3: (32, 32, 32)}
"""By dimensions: grids for INRs whose record does not say what grid they were fitted on."""


@dataclass(frozen=True)
class Column:
    """One signal and some of its INRs with weights."""

    title: str
    source: int
    rows: np.ndarray
    """Of the catalog."""


def draw_reconstructions(zoo: Zoo, path: Path, signals: Signals | None = None):
    """Draw one signal of each class above its INRs' renderings, with the PSNR of each.

    Without classes, the first signals are drawn. If the record cannot say what the signals were,
    only the INRs are, with a line that says why. Raises InputError if `signals`, or those that the
    record names, are not those that the zoo was fitted to, or if there is nothing to draw.
    """
    why = None if signals is not None else why_not_drawn(zoo)
    grid_of(zoo)  # raises InputError before signals are read
    draw_renderings(zoo, path, zoo.signals(signals) if why is None else None, why)


def draw_renderings(zoo: Zoo, path: Path, signals: Signals | None = None, note: str | None = None):
    """Draw what INRs of one signal of each class render, below `signals` if they are given.

    A `note` is written below the picture. Raises InputError if there is nothing to draw.
    """
    columns, grid = choose(zoo), grid_of(zoo)
    first = int(signals is not None)
    num_rows = first + max(len(each.rows) for each in columns)
    with picture(path, max(4.0, 1.05 * len(columns) + 0.6), 1.3 * num_rows) as figure:
        mark_partial(figure, zoo)
        axes = figure.subplots(num_rows, len(columns), squeeze=False)
        for place, each in enumerate(columns):
            titles = [quality(zoo, row) for row in each.rows]
            drawn = [render(zoo, int(row), grid) for row in each.rows]
            if signals is not None:
                titles, drawn = ["", *titles], [signals.values[each.source], *drawn]
            titles[0] = "\n".join(filter(None, [caption(each.title, COLUMN_WIDTH), titles[0]]))
            for row in range(num_rows):
                if row < len(drawn):
                    draw_signal(
                        axes[row, place], drawn[row], titles[row], zoo.record.decode.value_range
                    )
                else:
                    axes[row, place].set_visible(False)
        names = ["original"] * first + [f"INR {number + 1}" for number in range(num_rows - first)]
        for row, name in enumerate(names):
            axes[row, 0].set_ylabel(name, fontsize=9)
        if note is not None:
            lines = textwrap.fill(note, round(CHARACTERS * figure.get_figwidth()))
            figure.supxlabel(lines, fontsize=8, color=GREY)


def why_not_drawn(zoo: Zoo) -> str | None:
    """Why there are no signals to draw; None if there are."""
    if zoo.why_no_signals is None:
        return None
    order = "" if zoo.record.decode.coordinate_order else ", its coordinates taken as (y, x)"
    return f"without originals: {zoo.why_no_signals}{order}"


def why_not_rendered(zoo: Zoo) -> str | None:
    """Why members cannot be drawn by what they render; None if they can."""
    try:
        grid_of(zoo), zoo.decoder
    except InputError as error:
        return str(error)
    return None


def grid_of(zoo: Zoo) -> tuple[int, ...]:
    """Points along each axis.

    Raises InputError if members are not INRs of waves, images or volumes.
    """
    num_dims = zoo.record.decode.num_dims(zoo.space)
    if zoo.record.decode.image is not None or num_dims not in GRIDS:
        raise InputError(
            f"cannot draw what members of zoo {zoo.folder} render: expected INRs of waves, images "
            f"or volumes, found networks {zoo.record.architecture}"
        )
    grid = zoo.record.signals.grid
    return grid if len(grid) == num_dims else GRIDS[num_dims]


def choose(zoo: Zoo) -> list[Column]:
    """For each class, the first signal that has the most INRs with weights."""
    rows = rows_with_weights(zoo)
    table = zoo.catalog.take(rows)
    sources = column(table, "source_index")
    labels = table["label"] if "label" in table.column_names else pa.nulls(len(table), pa.int64())
    has_classes = labels.null_count < len(table)
    groups = pc.fill_null(labels, -1).to_numpy(zero_copy_only=False) if has_classes else sources
    columns = []
    for group in np.unique(groups)[:MAX_COLUMNS]:
        found, counts = np.unique(sources[groups == group], return_counts=True)
        source = found[counts.argmax()]
        own = np.flatnonzero((groups == group) & (sources == source))
        own = own[np.argsort(column(table, "view")[own], kind="stable")]
        title = class_name(zoo, int(group)) if has_classes else signal_name(table, int(own[0]))
        columns.append(Column(title, int(source), rows[own[:MAX_MEMBERS]]))
    return columns


def class_name(zoo: Zoo, label: int) -> str:
    names = dict(enumerate(zoo.record.signals.class_names))
    return names.get(label, "no class" if label < 0 else f"class {label}")


def signal_name(table: pa.Table, row: int) -> str:
    named = table["source_name"][row].as_py() if "source_name" in table.column_names else None
    return named or f"signal {table['source_index'][row]}"


def quality(zoo: Zoo, row: int) -> str:
    psnr = zoo.catalog["psnr"][row].as_py() if len(psnr_of(zoo)) else None
    return "" if psnr is None else f"{psnr:.1f} dB"


def render(zoo: Zoo, row: int, grid: Sequence[int]) -> np.ndarray:
    """`(*grid, channels)`: a member's values on a grid over its coordinates."""
    with torch.no_grad():
        values = zoo.module(row)(coordinates_of(zoo.record.decode, grid))
    return values.reshape(*grid, -1).numpy()


def draw_psnr(zoo: Zoo, path: Path):
    """Draw a histogram of the members' PSNR."""
    psnr, config = psnr_of(zoo), zoo.record.config
    with picture(path, 6, 2.8) as figure:
        axes = figure.subplots()
        axes.hist(psnr, bins=60, color=BLUE)
        axes.axvline(float(np.median(psnr)), color=ORANGE, label=f"median {np.median(psnr):.1f} dB")
        target = config.fit.target_psnr if isinstance(config, ZooConfig) else None
        if target is not None:
            axes.axvline(target, color=GREY, linestyle="--", label=f"stop target {target:g} dB")
        axes.set_xlabel("PSNR of the stored weights, dB")
        axes.set_ylabel("INRs")
        axes.legend(fontsize=8)


def psnr_of(zoo: Zoo) -> np.ndarray:
    """PSNR `(members,)` in dB, of the members that have one."""
    if "psnr" not in zoo.catalog.column_names:
        return np.zeros(0)
    values = zoo.catalog["psnr"].drop_null()
    return values.to_numpy() if pa.types.is_floating(values.type) else np.zeros(0)
