"""Scoring and using the best checkpoint: plain torch, in this process."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from pyarrow import csv

from dwsnet.models import num_parameters
from pipeline.archive.files import file_kind, write_atomic
from pipeline.archive.plan import SPLITS
from pipeline.archive.zoo import Zoo, column
from pipeline.errors import InputError, WorkError
from pipeline.tasks.classification import majority
from pipeline.training.checkpoint import TrainedModel
from pipeline.training.loader import split_batches

NAMING = ("key", "split", "source_index", "source_name", "view")
"""Catalog columns that come along with a prediction; a zoo that was imported may have no `source_name`."""


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of the members of a split that have weights, in the order of the catalog."""

    rows: pa.Table
    """Their catalog rows."""
    probabilities: np.ndarray
    """`(members, classes)` float32."""

    @property
    def is_finite(self) -> np.ndarray:
        """`(members,)` bool: not where weights, of the member or of the model, are too large for float32."""
        return np.isfinite(self.probabilities).all(1)

    @property
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(1)


@torch.no_grad()
def predict(trained: TrainedModel, zoo: Zoo, split: str) -> Predictions:
    """Raises InputError where the zoo's architecture is not the one that the model was trained on, ArchiveError where the zoo
    is not finished.
    """
    zoo.require_finished()
    if zoo.space != trained.space:
        raise InputError(
            f"zoo {zoo.folder} must hold networks with tensors {shapes(trained.space)}, found {shapes(zoo.space)}"
        )
    outputs = [trained.model(batch.state).softmax(1) for batch in split_batches(zoo, split)]
    probabilities = (
        torch.cat(outputs).numpy()
        if outputs
        else np.zeros((0, len(trained.class_names)), np.float32)
    )
    return Predictions(zoo.members(split), probabilities)


def shapes(space) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in space.tensors}


def evaluate(trained: TrainedModel, zoo: Zoo, split: str) -> dict[str, Any]:
    """The content of metrics.json.

    `accuracy` counts each INR by itself; `signal_accuracy` averages the probabilities of all views of a signal first. Where
    the model gives no finite numbers, a member counts as wrong and is in no column of `confusion`. `majority_accuracy` is what
    to compare with: it is had by always answering `majority_class`, the most frequent one of the train split.
    """
    predictions = predict(trained, zoo, split)
    labels = column(predictions.rows, "label")
    if not len(labels):
        raise InputError(
            f"split {split!r} of zoo {zoo.folder} must have members with weights, found none"
        )
    require_numbers(trained, predictions)
    num_classes, finite = len(trained.class_names), predictions.is_finite
    right = finite & (predictions.predicted == labels)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels[finite], predictions.predicted[finite]), 1)
    sources, inverse = np.unique(column(predictions.rows, "source_index"), return_inverse=True)
    votes = np.zeros((len(sources), num_classes))
    np.add.at(votes, inverse[finite], predictions.probabilities[finite])
    truth = np.zeros(len(sources), np.int64)
    truth[inverse] = labels
    majority_class, majority_accuracy = majority(zoo, split)
    return {
        "split": split,
        "epoch": trained.epoch,
        "num_members": len(labels),
        "num_signals": len(sources),
        "accuracy": float(right.mean()),
        "signal_accuracy": float(((votes.argmax(1) == truth) & votes.any(1)).mean()),
        "majority_class": majority_class,
        "majority_accuracy": majority_accuracy,
        "num_parameters": num_parameters(trained.model),
        "class_names": trained.class_names,
        "confusion": confusion.tolist(),
    }


def require_numbers(trained: TrainedModel, predictions: Predictions):
    """Raises WorkError where the model gives finite numbers for no member at all."""
    if len(predictions.rows) and not predictions.is_finite.any():
        raise WorkError(
            f"the model of epoch {trained.epoch} gives no finite number for any of {len(predictions.rows):,} members: "
            "its weights or theirs are too large; train with a smaller training.learning_rate into another --out"
        )


def write_predictions(trained: TrainedModel, zoo: Zoo, path: Path) -> int:
    """One row a member that has weights: key, split, which signal, true and predicted class, probability of each class.

    The true class is null where the zoo has none, the prediction where the model gives no finite numbers. CSV where the name
    of the file ends in .csv, Parquet where in .parquet, else InputError.

    Returns the number of rows.
    """
    kind = file_kind(path, "parquet", "csv")
    parts = [predict(trained, zoo, split) for split in SPLITS]
    rows = pa.concat_tables([part.rows for part in parts])
    whole = Predictions(rows, np.concatenate([part.probabilities for part in parts]))
    require_numbers(trained, whole)
    mask = ~whole.is_finite
    names, predicted = pa.array(trained.class_names), pa.array(whole.predicted, mask=mask)
    table = rows.select([name for name in NAMING if name in rows.column_names])
    table = table.append_column("class", true_classes(zoo, rows))
    table = table.append_column("predicted", names.take(predicted))
    for name, values in zip(trained.class_names, whole.probabilities.T, strict=True):
        table = table.append_column(f"probability of {name}", pa.array(values, mask=mask))
    buffer = io.BytesIO()
    (csv.write_csv if kind == "csv" else pq.write_table)(table, buffer)
    write_atomic(path, buffer.getvalue())
    return len(table)


def true_classes(zoo: Zoo, rows: pa.Table) -> pa.ChunkedArray:
    """The name of each member's class, null where the zoo has no classes or the member none."""
    names = pa.array(zoo.record.signals.class_names, pa.string())
    if not len(names) or "label" not in rows.column_names:
        return pa.chunked_array([pa.nulls(len(rows), pa.string())])
    return pc.take(names, rows["label"])
