"""Which class was the signal of? The label of the source, from the weights alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.nn import functional as F

from dwsnet.augment import mixup
from dwsnet.encoders import Encoder
from dwsnet.heads import ValuesHead
from dwsnet.keyed import fold_in
from dwsnet.state import read_state, write_state
from dwsnet.weight_space import WeightSpace
from pipeline.archive.zoo import Zoo
from pipeline.tasks.classes import check_classes, class_names, classes_of, labels_of
from pipeline.tasks.columns import batch_columns
from pipeline.tasks.config import ClassificationConfig
from pipeline.tasks.task import Batch, Evaluation, Figure, Monitor, Table


class Classifier(ValuesHead):
    """Takes stacked state dicts, returns logits `(batch, classes)`."""

    space: WeightSpace | None = None
    """Of the networks, by `Task.attach`: augmentation needs it."""

    def __init__(self, encoder: Encoder, class_names: Sequence[str], majority: int, dropout: float):
        super().__init__(encoder, len(class_names), dropout)
        self.class_names, self.majority = tuple(class_names), majority


@dataclass(frozen=True)
class Outputs:
    """Class probabilities of a batch, and the true classes where they are known."""

    probabilities: Tensor
    """`(batch, classes)`."""
    classes: list[str | None]
    """What their zoo calls the true class of each, None where it has none."""
    class_names: tuple[str, ...]


class Classification(ClassificationConfig):
    monitor: ClassVar[Monitor] = Monitor("accuracy")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def check(self, zoo: Zoo) -> None:
        """Two classes or more, one for each member, and augmentation that suits the members."""
        super().check(zoo)
        check_classes(zoo, self.column)
        self.augmentation.check(zoo)

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        """Names of the classes, and which is the most frequent one of the train split."""
        names = class_names(zoo, self.column)
        train = batch_columns(zoo.members("train"), self.columns)[self.column]
        labels = labels_of(train, self.column, names)
        return {"class_names": names, "majority": int(labels.bincount().argmax())}

    def build(self, encoder: Encoder, prepared: Mapping[str, Any]) -> Classifier:
        return Classifier(encoder, prepared["class_names"], prepared["majority"], self.dropout)

    def attach(self, model: Classifier, zoo: Zoo) -> None:
        model.space = zoo.space

    def labels(self, model: Classifier, batch: Batch) -> Tensor:
        return labels_of(batch.columns[self.column], self.column, model.class_names).to(
            batch.positions.device
        )

    def loss(self, model: Classifier, batch: Batch, keys: Tensor) -> Tensor:
        """Mean cross-entropy of augmented networks."""
        targets = F.one_hot(self.labels(model, batch), len(model.class_names)).float()
        state = self.augmentation.apply(model.space, batch.state, fold_in(keys, 0))
        if self.mixup:
            networks = read_state(model.space, state)
            networks, targets = mixup(model.space, networks, targets, fold_in(keys, 1), self.mixup)
            state = write_state(model.space, networks)
        return F.cross_entropy(model(state), targets, label_smoothing=self.label_smoothing)

    def sums(self, model: Classifier, batch: Batch) -> dict[str, Tensor]:
        logits, labels = model(batch.state), self.labels(model, batch)
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

    def outputs(self, model: Classifier, batch: Batch) -> Outputs:
        classes = classes_of(batch, self.column)
        return Outputs(model(batch.state).softmax(1), classes, model.class_names)

    def predictions(self, outputs: Outputs) -> dict[str, Any]:
        """True class where it is known, predicted class, probability of each."""
        names = pa.array(outputs.class_names)
        probabilities = outputs.probabilities.numpy()
        unknown = ~np.isfinite(probabilities).all(1)
        return {
            "class": pa.array(outputs.classes, pa.string()),
            "predicted": names.take(pa.array(probabilities.argmax(1), mask=unknown)),
            **{
                f"probability of {name}": share
                for name, share in zip(outputs.class_names, probabilities.T, strict=True)
            },
        }

    def scores(self, table: pa.Table) -> dict[str, Any]:
        """The confusion matrix, and where all views of each signal are of one class `signal_accuracy`, of their mean
        probabilities.

        A member for which the model gives no finite numbers counts as wrong and is in no column of `confusion`.
        """
        prefix = "probability of "
        names = [name for name in table.column_names if name.startswith(prefix)]
        votes = np.stack([table[name].fill_null(0).to_numpy() for name in names], 1)
        classes = pa.array([name.removeprefix(prefix) for name in names])
        finite = table["predicted"].is_valid().to_numpy()
        labels, predicted = (
            pc.index_in(table[name], classes).fill_null(-1).to_numpy()
            for name in ("class", "predicted")
        )
        confusion = np.zeros((len(names), len(names)), np.int64)
        np.add.at(confusion, (labels[finite], predicted[finite]), 1)
        return {
            **signal_accuracy(table["source_index"].to_numpy(), labels, votes),
            "class_names": classes.to_pylist(),
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


def signal_accuracy(source: np.ndarray, labels: np.ndarray, votes: np.ndarray) -> dict[str, float]:
    """How often the mean of probabilities `(members, classes)` over the members of a source is right; nothing where these
    are not of one class."""
    sources, first, inverse = np.unique(source, return_index=True, return_inverse=True)
    truth = labels[first]
    if (truth[inverse] != labels).any():
        return {}
    total = np.zeros((len(sources), votes.shape[1]))
    np.add.at(total, inverse, votes)
    return {"signal_accuracy": float(((total.argmax(1) == truth) & total.any(1)).mean())}
