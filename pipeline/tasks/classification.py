"""Which class was the signal of? The label of the source, from the weights alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.encoders import Encoder
from dwsnet.heads import ValuesHead
from pipeline.archive.zoo import Zoo, column
from pipeline.errors import InputError
from pipeline.tasks.task import Batch, Evaluation, Figure, Monitor, Table, TaskConfig


class Classifier(ValuesHead):
    """Takes stacked state dicts, returns logits `(batch, classes)`."""

    def __init__(self, encoder: Encoder, class_names: Sequence[str], majority: int, dropout: float):
        super().__init__(encoder, len(class_names), dropout)
        self.class_names, self.majority = tuple(class_names), majority


@dataclass(frozen=True)
class Outputs:
    """Class probabilities of a batch, and the true classes where they are known."""

    probabilities: Tensor
    """`(batch, classes)`."""
    labels: Tensor
    """`(batch,)`; -1 where there is none."""
    class_names: tuple[str, ...]


class Classification(TaskConfig):
    columns: ClassVar[tuple[str, ...]] = ("label",)
    monitor: ClassVar[Monitor] = Monitor("accuracy")

    kind: Literal["classification"] = "classification"
    """The class of the signal."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in the head."""

    def check(self, zoo: Zoo) -> None:
        """Classes of two names or more, and labels of all members."""
        names = zoo.record.signals.class_names
        if len(names) < 2:
            raise InputError(
                f"zoo {zoo.folder} has no classes to learn: its members must have labels of two classes or more, found "
                f"{', '.join(names) or 'none'}; label the signals, or make the zoo alone with `dwszoo zoo build`"
            )
        members = zoo.catalog.filter(pc.field("status") == "ok")
        if "label" not in members.column_names or members["label"].null_count:
            raise InputError(
                f"zoo {zoo.folder} has no classes to learn: its members must have labels, whole numbers or names"
            )

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        """Names of the classes, and which is the most frequent one of the train split."""
        labels = column(zoo.members("train"), "label")
        return {
            "class_names": list(zoo.record.signals.class_names),
            "majority": int(np.bincount(labels).argmax()),
        }

    def build(self, encoder: Encoder, prepared: Mapping[str, Any]) -> Classifier:
        return Classifier(encoder, prepared["class_names"], prepared["majority"], self.dropout)

    def loss(self, model: nn.Module, batch: Batch, keys: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(model(batch.state), batch.columns["label"])

    def sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, labels = model(batch.state), batch.columns["label"]
        right = logits.isfinite().all(1) & (logits.argmax(1) == labels)
        return {
            "members": torch.tensor(float(len(batch))),
            "loss": F.cross_entropy(logits, labels, reduction="sum"),
            "right": right.sum(),
            "majority": (labels == model.majority).sum(),
        }

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean cross-entropy and the share of members that are classified rightly, each by itself."""
        members = float(sums["members"])
        return {
            "accuracy": float(sums["right"]) / members,
            "loss": float(sums["loss"]) / members,
            "trivial_accuracy": float(sums["majority"]) / members,
        }

    def outputs(self, model: nn.Module, batch: Batch) -> Outputs:
        labels = batch.columns.get("label", torch.full((len(batch),), -1))
        return Outputs(model(batch.state).softmax(1), labels, model.class_names)

    def predictions(self, outputs: Outputs) -> dict[str, Any]:
        """True class where it is known, predicted class, probability of each."""
        names = pa.array(outputs.class_names)
        known = outputs.labels.numpy()
        probabilities = outputs.probabilities.numpy()
        unknown = ~np.isfinite(probabilities).all(1)
        return {
            "class": names.take(pa.array(known, mask=known < 0)),
            "predicted": names.take(pa.array(probabilities.argmax(1), mask=unknown)),
            **{
                f"probability of {name}": share
                for name, share in zip(outputs.class_names, probabilities.T, strict=True)
            },
        }

    def scores(self, table: pa.Table) -> dict[str, Any]:
        """`signal_accuracy`, of the mean probabilities over all views of a signal, and the confusion matrix.

        A member for which the model gives no finite numbers counts as wrong and is in no column of `confusion`.
        """
        prefix = "probability of "
        names = [name for name in table.column_names if name.startswith(prefix)]
        votes = np.stack([table[name].fill_null(0).to_numpy() for name in names], 1)
        class_names = pa.array([name.removeprefix(prefix) for name in names])
        finite = table["predicted"].is_valid().to_numpy()
        labels, predicted = (
            pc.index_in(table[name], class_names).fill_null(-1).to_numpy()
            for name in ("class", "predicted")
        )
        confusion = np.zeros((len(names), len(names)), np.int64)
        np.add.at(confusion, (labels[finite], predicted[finite]), 1)
        sources, inverse = np.unique(table["source_index"].to_numpy(), return_inverse=True)
        total = np.zeros((len(sources), len(names)))
        np.add.at(total, inverse, votes)
        truth = np.zeros(len(sources), np.int64)
        truth[inverse] = labels
        return {
            "signal_accuracy": float(((total.argmax(1) == truth) & total.any(1)).mean()),
            "class_names": class_names.to_pylist(),
            "confusion": confusion.tolist(),
        }

    def figures(
        self, metrics: Mapping[str, Any], evaluation: Evaluation
    ) -> Sequence[Figure | Table]:
        from pipeline.figures.confusion import draw_confusion, most_frequent_mistakes

        confusion, names = metrics["confusion"], metrics["class_names"]
        return (
            Figure(
                "confusion.svg",
                "What it takes for what: percent of each true class in the test split, one member at a time.",
                partial(draw_confusion, confusion, names),
            ),
            Table(
                "The most frequent mistakes:",
                ("true", "predicted", "of the true class"),
                most_frequent_mistakes(confusion, names),
            ),
        )
