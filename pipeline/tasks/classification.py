"""Classification: predict the class of the signal, or another column's, from the weights alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat

from pipeline.tasks.augmentation import Augmentation
from pipeline.tasks.task import LABEL, Figure, Monitor, Table, TaskConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from torch import Tensor

    from dwsnet.encoders import Encoder
    from dwsnet.heads import ValuesHead
    from pipeline.archive.zoo import Zoo
    from pipeline.tasks.task import Batch, Evaluation


class Outputs(NamedTuple):
    """Class probabilities of a batch, and the true classes if they are known."""

    probabilities: Tensor
    """`(batch, classes)`."""
    classes: list[str | None]
    """The true class of each member as its zoo names it, or None."""
    class_names: tuple[str, ...]


class Classification(TaskConfig):
    kind: Literal["classification"] = "classification"
    """Predict the class of the signal."""
    column: str = LABEL
    """Catalog column with the classes: the label of the signal, or any column of strings, integers
    or booleans."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in the head."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target spread evenly over all classes."""
    augmentation: Augmentation = Augmentation()
    """Augmentation of the networks in training."""
    mixup: NonNegativeFloat = 0.0
    """Train on interpolations of each network with another one, aligned to it by weight matching,
    with a share drawn from Beta(mixup, mixup); 0: off. Matching takes about a millisecond per
    network."""

    monitor: ClassVar[Monitor] = Monitor("accuracy")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def check(self, zoo: Zoo) -> None:
        """Require two classes or more, a class for each member, and exact augmentation."""
        from pipeline.tasks.classes import check_classes

        super().check(zoo)
        check_classes(zoo, self.column)
        self.augmentation.check(zoo)

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        """Names of the classes, and the most frequent one of the train split."""
        from pipeline.tasks.classes import class_names, labels_of
        from pipeline.tasks.columns import batch_columns

        names = class_names(zoo, self.column)
        train = batch_columns(zoo.members("train"), self.columns)[self.column]
        labels = labels_of(train, self.column, names)
        return {"class_names": names, "majority": int(labels.bincount().argmax())}

    def build(self, encoder: Encoder, prepared: Mapping[str, Any]) -> ValuesHead:
        """A model that maps stacked state dicts to logits `(batch, classes)`."""
        from dwsnet.heads import ValuesHead

        model: Any = ValuesHead(encoder, len(prepared["class_names"]), self.dropout)
        model.class_names = tuple(prepared["class_names"])
        model.majority = prepared["majority"]
        return model

    def attach(self, model: Any, zoo: Zoo) -> None:
        """Attach the weight space, which augmentation needs."""
        model.space = zoo.space

    def labels(self, model: ValuesHead, batch: Batch) -> Tensor:
        from pipeline.tasks.classes import labels_of

        labels = labels_of(batch.columns[self.column], self.column, model.class_names)
        return labels.to(batch.positions.device)

    def loss(self, model: ValuesHead, batch: Batch, keys: Tensor) -> Tensor:
        """Mean cross-entropy of augmented networks."""
        from torch.nn import functional as F

        from dwsnet.augment import mixup
        from dwsnet.keyed import fold_in
        from dwsnet.state import read_state, write_state

        targets = F.one_hot(self.labels(model, batch), len(model.class_names)).float()
        state = self.augmentation.apply(model.space, batch.state, fold_in(keys, 0))
        if self.mixup:
            networks = read_state(model.space, state)
            networks, targets = mixup(model.space, networks, targets, fold_in(keys, 1), self.mixup)
            state = write_state(model.space, networks)
        return F.cross_entropy(model(state), targets, label_smoothing=self.label_smoothing)

    def sums(self, model: ValuesHead, batch: Batch) -> dict[str, Tensor]:
        import torch
        from torch.nn.functional import cross_entropy

        logits, labels = model(batch.state), self.labels(model, batch)
        right = logits.isfinite().all(1) & (logits.argmax(1) == labels)
        return {
            "members": torch.tensor(float(len(batch))),
            "loss": cross_entropy(logits, labels, reduction="sum"),
            "right": right.sum(),
            "majority": (labels == model.majority).sum(),
        }

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean cross-entropy and the share of members classified correctly, one by one."""
        members = float(sums["members"])
        return {
            "accuracy": float(sums["right"]) / members,
            "loss": float(sums["loss"]) / members,
            "trivial_accuracy": float(sums["majority"]) / members,
        }

    def outputs(self, model: ValuesHead, batch: Batch) -> Outputs:
        from pipeline.tasks.classes import classes_of

        classes = classes_of(batch, self.column)
        return Outputs(model(batch.state).softmax(1), classes, model.class_names)

    def predictions(self, outputs: Outputs) -> dict[str, Any]:
        """True class if it is known, predicted class, probability of each class."""
        import numpy as np
        import pyarrow as pa

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
        """The confusion matrix, and the `signal_accuracy` of probabilities averaged over views.

        `signal_accuracy` is left out if the views of some signal differ in class. A member with
        non-finite outputs counts as wrong and is in no column of `confusion`.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

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
                "Confusion matrix of the test split, one member at a time: percent of each true "
                "class.",
                partial(draw_confusion, confusion, names),
            ),
            Table(
                "The most frequent mistakes:",
                ("true", "predicted", "of the true class"),
                most_frequent_mistakes(confusion, names),
            ),
        )


def signal_accuracy(source: np.ndarray, labels: np.ndarray, votes: np.ndarray) -> dict[str, float]:
    """Accuracy of the probabilities `(members, classes)` averaged over the members of each source.

    Empty if the members of some source differ in class.
    """
    import numpy as np

    sources, first, inverse = np.unique(source, return_index=True, return_inverse=True)
    truth = labels[first]
    if (truth[inverse] != labels).any():
        return {}
    total = np.zeros((len(sources), votes.shape[1]))
    np.add.at(total, inverse, votes)
    return {"signal_accuracy": float(((total.argmax(1) == truth) & total.any(1)).mean())}
