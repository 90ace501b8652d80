"""Pictures of zoos and of training, as files."""

import io
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from pipeline.archive.files import write_atomic
from pipeline.archive.zoo import Zoo, column
from pipeline.errors import InputError
from pipeline.fit.siren import render
from pipeline.signals import NO_LABEL, Signals, coordinates, load_signals
from pipeline.training.checkpoint import EpochMetrics

BLUE, ORANGE, GREY = "#2f6db3", "#d9772b", "#7a828c"
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#333",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "dwszoo",
}
MAX_CLASSES, MAX_VIEWS = 10, 3


@contextmanager
def picture(path: Path, width: float, height: float):
    """A matplotlib figure of so many inches, saved to `path` (PNG or SVG by its suffix) when the block ends."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise InputError(f"cannot draw {path}: expected a name that ends in .png or .svg")
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(content, format=kind, dpi=160, metadata=metadata)
    write_atomic(path, content.getvalue())


def originals(zoo: Zoo) -> Signals:
    """The signals that the zoo was fitted to, from where its record says. Raises InputError where they are gone."""
    if zoo.record.merged:
        raise InputError(
            f"cannot draw zoo {zoo.folder}: it was merged, draw those that it was merged from"
        )
    if zoo.record.imported:
        raise InputError(
            f"cannot draw zoo {zoo.folder}: it was imported, the signals that it was fitted to are not known"
        )
    source = zoo.record.config.signals
    if source.is_function:
        raise InputError(
            f"cannot draw zoo {zoo.folder}: its signals come from {source.source}, and no code is run because an archive "
            "names it; in Python, pipeline.report.pictures.draw_reconstructions takes the signals"
        )
    return load_signals(source)


def draw_reconstructions(zoo: Zoo, path: Path, signals: Signals | None = None):
    """One signal of each class above what its INRs render, with the PSNR of each.

    Raises InputError where `signals`, or what the record names, are not those that the zoo was fitted to.
    """
    signals = originals(zoo) if signals is None else signals
    if signals.digest() != zoo.record.signals.digest:
        raise InputError(
            f"the signals of zoo {zoo.folder} have changed since it was built: expected digest "
            f"{zoo.record.signals.digest}, found {signals.digest()}; put the originals back"
        )
    if len(signals.grid) > 3:
        raise InputError(
            f"cannot draw zoo {zoo.folder}: expected waves, images or volumes, found a grid {signals.grid}"
        )
    table = zoo.catalog
    if not len(table):
        raise InputError(f"cannot draw zoo {zoo.folder}: it has no members yet ({zoo.state})")
    sources = column(table, "source_index")
    views, ok = column(table, "view"), column(table, "status") == "ok"
    shown = shown_sources(signals, sources)
    num_views = min(MAX_VIEWS, int(views.max()) + 1)
    grid = torch.from_numpy(coordinates(signals.grid))
    with picture(path, 1.05 * len(shown) + 0.6, 1.3 * (num_views + 1)) as figure:
        mark_partial(figure, zoo)
        axes = figure.subplots(num_views + 1, len(shown), squeeze=False)
        for place, (source, title) in enumerate(shown.items()):
            show(axes[0, place], signals.values[source], title)
            for view in range(num_views):
                hit = np.flatnonzero((sources == source) & (views == view) & ok)
                if not len(hit):
                    show(axes[view + 1, place], np.ones_like(signals.values[source]), "failed")
                    continue
                tensors = [tensor[None] for tensor in zoo[int(hit[0])].values()]
                pixels = (
                    render(tensors, zoo.record.config.inr, grid)[0]
                    .t()
                    .reshape(signals.values[source].shape)
                )
                psnr = table["psnr"][int(hit[0])].as_py()
                show(axes[view + 1, place], pixels.numpy(), f"{psnr:.1f} dB")
        for row, name in enumerate(["original", *(f"INR {view + 1}" for view in range(num_views))]):
            axes[row, 0].set_ylabel(name, fontsize=9)


def mark_partial(figure: Figure, zoo: Zoo):
    """Say above all else that a zoo is under construction."""
    if not zoo.is_sealed:
        figure.suptitle(zoo.state, fontsize=10, color=ORANGE)


def shown_sources(signals: Signals, sources: np.ndarray) -> dict[int, str]:
    """Some of the sources with their titles: the first one of each class, or the first ones where there are no classes."""
    sources = np.unique(sources)
    if not signals.class_names:
        return {source: str(source) for source in sources[:MAX_CLASSES].tolist()}
    classes, first = np.unique(signals.labels[sources], return_index=True)
    shown = sources[first[classes != NO_LABEL]][:MAX_CLASSES].tolist()
    return {source: signals.class_names[signals.labels[source]] for source in shown}


def show(axes, values: np.ndarray, title: str):
    """`(*grid, channels)` as a curve, a picture, or the middle slice of a volume."""
    if values.ndim == 2:
        axes.plot(values, color=BLUE, linewidth=0.8)
        axes.set_ylim(-0.05, 1.05)
    else:
        picture = values if values.ndim == 3 else values[len(values) // 2]
        axes.imshow(picture.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=9, pad=3, color="#333")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_psnr(zoo: Zoo, path: Path):
    """How well the members fit: a histogram of their PSNR."""
    psnr = zoo.catalog["psnr"].drop_null().to_numpy()
    with picture(path, 6, 2.8) as figure:
        axes = figure.subplots()
        axes.hist(psnr, bins=60, color=BLUE)
        axes.axvline(float(np.median(psnr)), color=ORANGE, label=f"median {np.median(psnr):.1f} dB")
        target = zoo.record.config.fit.target_psnr
        if target is not None:
            axes.axvline(target, color=GREY, linestyle="--", label=f"stop target {target:g} dB")
        axes.set_xlabel("PSNR of the stored weights, dB")
        axes.set_ylabel("INRs")
        axes.legend()


def draw_curves(runs: dict[str, Sequence[EpochMetrics]], num_classes: int, path: Path):
    """Loss and validation accuracy by epoch: one colour a run, solid on the train split, dashed on validation."""
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
        accuracy.axhline(100 / num_classes, color=GREY, linestyle=":", label="chance")
        accuracy.set_ylim(0, 100)
        for axes, label in ((loss, "cross-entropy"), (accuracy, "validation accuracy, %")):
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            axes.legend(fontsize=8)
            axes.xaxis.get_major_locator().set_params(integer=True)


def draw_confusion(confusion: Sequence[Sequence[int]], class_names: Sequence[str], path: Path):
    """True classes as rows, predicted ones as columns, each cell the share of its row in percent."""
    counts = np.array(confusion, float)
    shares = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))
    size = max(3.6, 0.42 * len(class_names) + 1)
    with picture(path, size, size) as figure:
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        axes.set_xticks(range(len(class_names)), class_names)
        axes.set_yticks(range(len(class_names)), class_names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        for row, column_index in np.ndindex(*shares.shape):
            share = shares[row, column_index]
            if share >= 0.5:
                colour = "white" if share > 50 else "#333"
                axes.text(
                    column_index,
                    row,
                    f"{share:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=colour,
                )
