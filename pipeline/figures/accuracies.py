"""Pictures of zoos of classifiers: how accurate members are, and what accuracy depends on."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive.zoo import Zoo
from pipeline.config import ClassifierZooConfig
from pipeline.errors import InputError
from pipeline.figures.picture import BLUE, GREY, ORANGE, mark_partial, picture
from pipeline.zoos.splits import image_splits

ACCURACY = "test_accuracy"
HYPERPARAMETERS = (
    *(
        "optimizer",
        "learning_rate",
        "activation",
        "init",
        "init_scale",
        "init_std",
        "weight_decay",
        "dropout",
    ),
    *("train_fraction", "epochs"),
)
"""Columns that accuracy may depend on, in catalogs of built and of imported zoos."""
COLUMNS, FEW, BINS, WIDE = 4, 8, 8, 30


def draw_accuracies(zoo: Zoo, path: Path):
    """Draw the final test accuracies of runs, accuracy by epoch and by each varying hyperparameter.

    A panel leaves out members that lack a value it needs. A line below says how many members have
    no accuracy, and who measured the others.
    """
    table = with_accuracy(zoo)
    if not len(table):
        raise InputError(
            f"cannot draw zoo {zoo.folder}: none of its members has a {ACCURACY} from 0 to 1 "
            f"({zoo.state})"
        )
    last = at_the_end(table)
    varying = [
        name
        for name in HYPERPARAMETERS
        if name in last.column_names and pc.count_distinct(known(last, name)[name]).as_py() > 1
    ]
    by_epoch = known(table, "epoch")
    has_epochs = len(by_epoch) > 0 and pc.count_distinct(by_epoch["epoch"]).as_py() > 1
    num_panels = 1 + has_epochs + len(varying)
    num_columns = min(COLUMNS, num_panels)
    num_rows = -(-num_panels // num_columns)
    with picture(path, 3.4 * num_columns, 2.6 * num_rows) as figure:
        mark_partial(figure, zoo)
        panels = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
        draw_histogram(panels[0], percent(last), majority_accuracy(zoo, last))
        if has_epochs:
            draw_epochs(panels[1], by_epoch)
        for axes, name in zip(panels[1 + has_epochs :], varying, strict=False):
            part = known(last, name)
            draw_dependence(axes, name, part[name], percent(part))
        for axes in panels[num_panels:]:
            axes.set_visible(False)
        figure.supxlabel(provenance(zoo, len(table)), fontsize=8, color=GREY)


def has_accuracies(zoo: Zoo) -> bool:
    return ACCURACY in zoo.record.schema.names and len(with_accuracy(zoo)) > 0


def with_accuracy(zoo: Zoo) -> pa.Table:
    """Catalog rows of the members with weights and an accuracy from 0 to 1."""
    table = known(zoo.catalog.filter(pc.field("status") == "ok"), ACCURACY)
    if not len(table):
        return table
    return table.filter((pc.field(ACCURACY) >= 0) & (pc.field(ACCURACY) <= 1))


def known(table: pa.Table, name: str) -> pa.Table:
    """The rows with a value in this column, which must be finite if it is a number."""
    if name not in table.column_names or (name == ACCURACY and not is_number(table[name])):
        return table.slice(0, 0)
    table = table.filter(pc.is_valid(pc.field(name)))
    return table.filter(pc.is_finite(table[name])) if is_number(table[name]) else table


def is_number(column: pa.ChunkedArray) -> bool:
    return pa.types.is_floating(column.type) or pa.types.is_integer(column.type)


def provenance(zoo: Zoo, num_drawn: int) -> str:
    """Who measured the accuracies, if not this program, and how many members have none."""
    notes, num_members = [], pc.sum(pc.equal(zoo.catalog["status"], "ok")).as_py()
    records = (zoo.record, *zoo.record.merged)
    if sources := [Path(record.imported.path).name for record in records if record.imported]:
        notes.append(f"as stated by {', '.join(sources)}, not measured here")
    if num_drawn < num_members:
        notes.append(f"{num_members - num_drawn:,} of {num_members:,} members have no {ACCURACY}")
    return "; ".join(notes)


def at_the_end(table: pa.Table) -> pa.Table:
    """The last checkpoint of each run, by epoch if epochs are known."""
    names = [name for name in ("source_index", "epoch", "view") if name in table.column_names]
    keys = [(name, "ascending", "at_start") for name in names]
    order = table.take(pc.sort_indices(table, sort_keys=keys))
    run = order["source_index"].to_numpy()
    return order.filter(pa.array(np.append(run[1:] != run[:-1], True)))


def percent(table: pa.Table) -> np.ndarray:
    return 100 * table[ACCURACY].to_numpy()


def majority_accuracy(zoo: Zoo, runs: pa.Table) -> float | None:
    """Percent accuracy on test images of always answering the most frequent train class of a run.

    The mean over runs if each learns its own classes. None if the images are not available.
    """
    config = zoo.record.config
    if not isinstance(config, ClassifierZooConfig):
        return None
    try:
        signals = zoo.signals()
    except InputError:  # accuracies are in the catalog, and can be drawn without the images
        return None
    splits, num_classes = image_splits(config, signals), len(signals.class_names)
    train, test = (
        np.bincount(signals.labels[splits[split]], minlength=num_classes)
        for split in ("train", "test")
    )
    learned = np.arange(num_classes)[None]
    if config.classes == "pairs":
        learned = np.stack([runs[name].to_numpy() for name in ("class_0", "class_1")], 1)
    most = np.take_along_axis(learned, train[learned].argmax(1)[:, None], 1)[:, 0]
    return 100 * float((test[most] / test[learned].sum(1)).mean())


def draw_histogram(axes, accuracy: np.ndarray, majority: float | None):
    axes.hist(accuracy, bins=50, color=BLUE)
    if majority is not None:
        label = f"always the most frequent\nclass {majority:.1f} %"
        axes.axvline(majority, color=GREY, linestyle=":", label=label)
    axes.axvline(
        float(np.median(accuracy)), color=ORANGE, label=f"median {np.median(accuracy):.1f} %"
    )
    axes.set_xlabel("test accuracy at the end, %")
    axes.set_ylabel("runs")
    axes.legend(fontsize=8)


def draw_epochs(axes, table: pa.Table):
    """Draw median, quartiles and 5 to 95 % of the accuracies of all checkpoints of an epoch."""
    epoch, accuracy = table["epoch"].to_numpy(), percent(table)
    epochs = np.unique(epoch)
    quantiles = np.array(
        [np.quantile(accuracy[epoch == each], (0.05, 0.25, 0.5, 0.75, 0.95)) for each in epochs]
    ).T
    for low, high, shade in ((0, 4, 0.2), (1, 3, 0.4)):
        axes.fill_between(
            epochs, quantiles[low], quantiles[high], color=BLUE, alpha=shade, linewidth=0
        )
    axes.plot(epochs, quantiles[2], color=ORANGE, marker="o", markersize=3, label="median")
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy, %")
    axes.legend(fontsize=8)


def draw_dependence(axes, name: str, values: pa.ChunkedArray, accuracy: np.ndarray):
    """Draw a box for each of few values, or for many a dot per run and medians of eighths."""
    values = values.to_numpy()
    different = sorted(set(values.tolist()))
    if len(different) <= FEW or isinstance(different[0], str):
        groups = [accuracy[values == value] for value in different]
        boxes = axes.boxplot(
            groups, showfliers=False, patch_artist=True, medianprops={"color": ORANGE}
        )
        for box in boxes["boxes"]:
            box.set(facecolor=BLUE, alpha=0.4, linewidth=0)
        labels = [value if isinstance(value, str) else f"{value:g}" for value in different]
        axes.set_xticks(range(1, len(labels) + 1), labels, rotation=30, fontsize=8)
    else:
        axes.scatter(values, accuracy, s=3, color=BLUE, alpha=0.35, linewidth=0)
        parts = np.array_split(np.argsort(values), BINS)
        axes.plot(
            [np.median(values[part]) for part in parts],
            [np.median(accuracy[part]) for part in parts],
            color=ORANGE,
        )
        low, high = np.quantile(values, (0.05, 0.95))
        if low > 0 and high / low > WIDE:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")  # not as powers of ten
            axes.xaxis.set_minor_formatter("")
    axes.set_ylim(0, 100)
    axes.set_xlabel(name.replace("_", " "))
    axes.set_ylabel("test accuracy, %")
