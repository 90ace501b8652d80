"""Scoring and using the best checkpoint: plain torch, in this process."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dwsnet.models import num_parameters
from pipeline.archive.files import write_atomic
from pipeline.archive.plan import SPLITS
from pipeline.archive.zoo import Zoo, column
from pipeline.errors import InputError
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
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(1)


@torch.no_grad()
def predict(trained: TrainedModel, zoo: Zoo, split: str) -> Predictions:
    """Raises InputError where the zoo's architecture is not the one that the model was trained on."""
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

    `accuracy` counts each INR by itself; `signal_accuracy` averages the probabilities of all views of a signal first.
    """
    predictions = predict(trained, zoo, split)
    labels = column(predictions.rows, "label")
    if not len(labels):
        raise InputError(
            f"split {split!r} of zoo {zoo.folder} must have members with weights, found none"
        )
    num_classes = len(trained.class_names)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, predictions.predicted), 1)
    sources, inverse = np.unique(column(predictions.rows, "source_index"), return_inverse=True)
    votes = np.zeros((len(sources), num_classes))
    np.add.at(votes, inverse, predictions.probabilities)
    truth = np.zeros(len(sources), np.int64)
    truth[inverse] = labels
    return {
        "split": split,
        "epoch": trained.epoch,
        "num_members": len(labels),
        "num_signals": len(sources),
        "accuracy": float((predictions.predicted == labels).mean()),
        "signal_accuracy": float((votes.argmax(1) == truth).mean()),
        "num_parameters": num_parameters(trained.model),
        "class_names": trained.class_names,
        "confusion": confusion.tolist(),
    }


def write_predictions(trained: TrainedModel, zoo: Zoo, path: Path) -> int:
    """One row a member that has weights: key, split, which signal, true and predicted class, probability of each class.

    Returns the number of rows.
    """
    parts = [predict(trained, zoo, split) for split in SPLITS]
    rows = pa.concat_tables([part.rows for part in parts])
    probabilities = np.concatenate([part.probabilities for part in parts])
    names = np.array(trained.class_names)
    table = rows.select([name for name in NAMING if name in rows.column_names])
    table = table.append_column(
        "class", pa.array(np.array(zoo.record.signals.class_names)[column(rows, "label")])
    )
    table = table.append_column("predicted", pa.array(names[probabilities.argmax(1)]))
    for name, values in zip(trained.class_names, probabilities.T, strict=True):
        table = table.append_column(f"probability of {name}", pa.array(values))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue())
    return len(table)
