"""Evaluation and predictions of the best checkpoint, in plain PyTorch and in this process."""

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from pyarrow import csv

from dwsnet.models import num_parameters
from pipeline.archive.files import file_kind, json_text, read_json, write_atomic
from pipeline.archive.plan import SPLITS
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError, WorkError, reason
from pipeline.tasks import Batch, Task
from pipeline.training.checkpoint import TrainedModel
from pipeline.training.loader import Feed
from pipeline.training.scoring import sums_over

NAMING = ("key", "split", "source_index", "source_name", "view")
"""Catalog columns that predictions include; an imported zoo may have no `source_name`."""


def require_space(trained: TrainedModel, zoo: Zoo):
    """Raises InputError if the zoo's architecture is not the one that the model was trained on, and
    ArchiveError if the zoo is not finished.
    """
    zoo.require_finished()
    if zoo.space != trained.space:
        raise InputError(
            f"zoo {zoo.folder} must hold networks with tensors {shapes(trained.space)}, "
            f"found {shapes(zoo.space)}"
        )


def shapes(space) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in space.tensors}


@torch.no_grad()
def predict(trained: TrainedModel, zoo: Zoo, split: str) -> pa.Table:
    """Predictions for the members of a split that have weights, in catalog order.

    The columns are those of `NAMING`, then the task's.
    """
    require_space(trained, zoo)
    known = [name for name in trained.task.columns if name in zoo.record.schema.names]
    feed = Feed(zoo, split, tuple(known))
    tables = [as_table(trained.task, trained.model, batch) for batch in feed.whole()]
    rows = zoo.members(split)
    rows = rows.select([name for name in NAMING if name in rows.column_names])
    if not tables:
        return rows
    made = pa.concat_tables(tables, promote_options="permissive")
    for name in made.column_names:
        rows = rows.append_column(name, made[name])
    return rows


def as_table(task: Task, model: torch.nn.Module, batch: Batch) -> pa.Table:
    """The task's predictions for a batch, with null for numbers that are not finite."""
    made = task.predictions(task.outputs(model, batch))
    if not made:
        raise InputError("predictions must have a column or more, found none")
    return pa.table({name: as_column(name, made[name], len(batch)) for name in made})


def as_column(name: str, values: Any, num_members: int) -> pa.Array:
    """Predictions as a column. Raises InputError if they are not one, or named as in `NAMING`."""
    if not isinstance(name, str):
        raise InputError(f"predictions must be named by strings, found {name!r}")
    if name in NAMING:
        raise InputError(
            f"predictions must not be named like a column of the catalog, found {name!r}"
        )
    try:
        array = values if isinstance(values, pa.Array | pa.ChunkedArray) else finite(values)
    except (pa.ArrowException, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"predictions must be columns, found {name!r} that is none: {reason(error)}"
        ) from error
    if len(array) != num_members:
        raise InputError(
            f"predictions must have one entry per member, found {len(array)} in {name!r} for "
            f"{num_members} members"
        )
    return array


def finite(values: Any) -> pa.Array:
    """What NumPy takes for a one-dimensional array, with null for numbers that are not finite."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"its shape is {array.shape}")
    return pa.array(array, mask=~np.isfinite(array) if array.dtype.kind == "f" else None)


def evaluate(
    trained: TrainedModel, zoo: Zoo, split: str, members: int | None = None, seed: int = 0
) -> tuple[dict[str, Any], pa.Table]:
    """The content of metrics.json, and the predictions that it is computed from.

    It has the task's metrics, the split, and its numbers of members and signals. For the test split
    it also has the monitored metric on as many of the members that the model was trained on
    (`members` of the train split, drawn from `seed`, or all).
    """
    require_space(trained, zoo)
    trained.task.attach(trained.model, zoo)
    table = predict(trained, zoo, split)
    if not len(table):
        raise InputError(
            f"split {split!r} of zoo {zoo.folder} must have members with weights, found none"
        )
    require_numbers(trained, table)
    sums = sums_over(trained.task, trained.model, Feed.of(trained.task, zoo, split).whole())
    metrics = {
        "split": split,
        "epoch": trained.epoch,
        "task": trained.config.task.kind,
        "encoder": trained.config.encoder.kind,
        "monitor": trained.task.monitor.metric,
        "num_members": len(table),
        "num_signals": pc.count_distinct(table["source_index"]).as_py(),
        "num_parameters": num_parameters(trained.model),
        **trained.task.metrics(sums),
        **trained.task.scores(table),
    }
    if split == "test":
        metrics["train"] = on_train(trained, zoo, min(len(table), members or len(table)), seed)
    return metrics, table


def on_train(trained: TrainedModel, zoo: Zoo, members: int, seed: int) -> dict[str, Any]:
    """The monitored metric on `members` of the train split, and their number."""
    feed = Feed.of(trained.task, zoo, "train", members, seed)
    metrics = trained.task.metrics(sums_over(trained.task, trained.model, feed.whole()))
    return {"members": members, "value": metrics[trained.task.monitor.metric]}


def write_metrics(file: Path, metrics: Mapping[str, Any]):
    write_atomic(file, (json_text(metrics, indent=2) + "\n").encode())


def read_metrics(file: Path) -> dict[str, Any]:
    """The content of metrics.json or a similar file; null is read as NaN, a mean over nothing."""
    return _with_nan(read_json(file))


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_nan(one) for name, one in value.items()}
    return math.nan if value is None else value


def scalars(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The task's metrics in metrics.json, the monitored one first."""
    own = {name: value for name, value in metrics.items() if isinstance(value, float)}
    yield metrics["monitor"], own.pop(metrics["monitor"])
    yield from own.items()


def shown(metric: str, value: float) -> str:
    """A metric for people: accuracies in percent, other numbers with four digits."""
    if math.isnan(value):
        return "undefined"
    return f"{100 * value:.1f} %" if metric.endswith("accuracy") else f"{value:.4g}"


def titled(metric: str) -> str:
    """The title of a metric: "trivial accuracy" for `trivial_accuracy`."""
    return metric.replace("_", " ")


def require_numbers(trained: TrainedModel, table: pa.Table):
    """Raises WorkError if the model gives no finite number for any member."""
    made = table.drop_columns([name for name in NAMING if name in table.column_names])
    numbers = [column for column in made.columns if pa.types.is_floating(column.type)]
    if numbers and all(column.null_count == len(column) for column in numbers):
        raise WorkError(
            f"the model of epoch {trained.epoch} gives no finite number for any of {len(table):,} "
            "members: its weights or theirs are too large; train with a smaller "
            "training.learning_rate into another --out"
        )


def write_predictions(trained: TrainedModel, zoo: Zoo, path: Path) -> int:
    """Write the predictions for all members that have weights; returns their number.

    Writes CSV or Parquet if the file name ends in .csv or .parquet, and raises InputError
    otherwise.
    """
    kind = file_kind(path, "parquet", "csv")
    require_space(trained, zoo)
    zoo.require_weights()
    parts = [part for split in SPLITS if len(part := predict(trained, zoo, split))]
    table = pa.concat_tables(parts, promote_options="permissive")
    require_numbers(trained, table)
    buffer = io.BytesIO()
    (csv.write_csv if kind == "csv" else pq.write_table)(table, buffer)
    write_atomic(path, buffer.getvalue())
    return len(table)
