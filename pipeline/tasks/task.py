"""The interface between tasks and training, which knows a task only as a `Task`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from pipeline.config import Config

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from torch import Tensor, nn

    from dwsnet.weight_space import WeightSpace
    from pipeline.archive.shard import Block
    from pipeline.archive.zoo import Zoo

LABEL = "label"
"""The column whose numbers index the signals' class names; in other columns the values are the
classes."""


@dataclass(frozen=True)
class Monitor:
    """The metric that chooses the best epoch."""

    metric: str
    more_is_better: bool = True


@dataclass(frozen=True)
class Batch:
    """Members that are trained on, or scored, together."""

    state: Block
    """Stacked state dicts: `(batch, *spec.shape)` float32 by tensor name."""
    columns: Mapping[str, Any]
    """The task's catalog columns: `(batch,)` int64 with -1 for null, `(batch,)` float32 with NaN
    for null, or a list for other types."""
    positions: Tensor
    """`(batch,)` int64: rows of the catalog."""
    class_names: tuple[str, ...] = ()
    """Class names of the zoo, which the numbers of the column `label` index."""

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, index: Tensor) -> Batch:
        """The members at `index`, in that order."""
        columns = {
            name: [values[i] for i in index.tolist()] if isinstance(values, list) else values[index]
            for name, values in self.columns.items()
        }
        state = {name: tensor[index] for name, tensor in self.state.items()}
        return replace(self, state=state, columns=columns, positions=self.positions[index])

    def __getitem__(self, part: slice) -> Batch:
        """A slice of the members, as views of the tensors."""
        columns = {name: values[part] for name, values in self.columns.items()}
        state = {name: tensor[part] for name, tensor in self.state.items()}
        return replace(self, state=state, columns=columns, positions=self.positions[part])

    def to(self, device: torch.device) -> Batch:
        """Move to a device, asynchronously from page-locked memory."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pin_memory(self) -> Batch:
        """Copy to page-locked memory, from which a GPU copies asynchronously."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        columns = {
            name: values if isinstance(values, list) else change(values)
            for name, values in self.columns.items()
        }
        state = {name: change(tensor) for name, tensor in self.state.items()}
        return replace(self, state=state, columns=columns, positions=change(self.positions))

    def with_state(self, state: Block) -> Batch:
        """The same members with other weights, such as augmented ones."""
        return replace(self, state=state)


@dataclass(frozen=True)
class Figure:
    """A picture of the report."""

    file: str
    """File name, ending in .svg or .png."""
    text: str
    """The sentence above it."""
    draw: Callable[[Path], None]
    """Draws the picture into a file; into a PNG and an SVG if the path has no suffix."""


@dataclass(frozen=True)
class Table:
    """A table of the report."""

    text: str
    """The sentence above it."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Cells as text."""


@dataclass(frozen=True)
class Evaluation:
    """The material for a task's figures: the best model, evaluated on the test split."""

    zoo: Zoo
    model: nn.Module
    """The best model, in evaluation mode, with what `Task.attach` gave it."""
    prepared: Mapping[str, Any]
    table: pa.Table
    """Predictions, one row per member: the catalog's naming columns, then those of
    `Task.predictions`."""


class Task(Protocol):
    """Something to learn from a zoo.

    A task of your own is an object with these parts, or a subclass of `TaskConfig`. `columns`,
    `monitor`, `check`, `prepare`, `build`, `loss`, `sums`, `metrics` and `predictions` are
    required; missing others are taken from `TaskConfig`.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """Catalog columns that come with each batch."""

    @property
    def group(self) -> int:
        """Members of one signal that stay together in the order: 2 for pairs of views, else 1."""

    @property
    def monitor(self) -> Monitor:
        """The metric that chooses the best epoch."""

    def check(self, zoo: Zoo) -> None:
        """Raise InputError, in one sentence, if this zoo cannot teach the task.

        Also called before anything is fitted, with a zoo that only has its record and the schema of
        its catalog.
        """

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        """Facts of the train split as JSON, such as class names; they are kept in model.json.

        `zoo.members("train")` are those that are trained on, which may be fewer than the split has.
        """

    def build(self, encoder: nn.Module, prepared: Mapping[str, Any]) -> nn.Module:
        """The model: a head on the encoder, initialised from torch's generator."""

    def boosted(
        self, space: WeightSpace, batches: Iterable[Batch], prepared: Mapping[str, Any]
    ) -> nn.Module | None:
        """Gradient boosting on statistics of the weights, fitted to batches of the train split.

        A module that can be scored in place of the model, or None if the task has none.
        """

    def attach(self, model: Any, zoo: Zoo) -> None:
        """Attach what `loss` and `sums` need beside the batch, as non-persistent buffers.

        For example images, or a grid. Called once per process, before training and before scoring,
        but not for predictions that are not scored.
        """

    def loss(self, model: nn.Module, batch: Batch, keys: Tensor) -> Tensor:
        """The mean loss over a batch.

        `keys` `(batch,)` int64 are the members' keys for augmentation in this epoch.
        """

    def sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Tensors that, added up over batches and ranks, are the input of `metrics`."""

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Metrics of a split, including `monitor.metric` and 'loss'.

        `trivial_NAME` is metric NAME of the best answer that ignores the weights: the most frequent
        class, the mean, the unchanged network. Reports show both together. Names that end in
        `accuracy` are shares, shown in percent.
        """

    def outputs(self, model: Any, batch: Batch) -> Any:
        """The input of `predictions`: the model's output for a batch."""

    def predictions(self, outputs: Any) -> Mapping[str, Any]:
        """Columns of a table, one entry per member of the batch; non-finite numbers become null."""

    def scores(self, table: pa.Table) -> dict[str, Any]:
        """Metrics that need all predictions of a split at once, as JSON values."""

    def figures(
        self, metrics: Mapping[str, Any], evaluation: Evaluation
    ) -> Sequence[Figure | Table]:
        """Pictures and tables of the report, in order; it has training curves for every task."""


class TaskConfig(Config):
    """A built-in task: its fields are the configuration, its methods the task.

    Has defaults for the parts that many tasks do not need.
    """

    group: ClassVar[int] = 1

    def check(self, zoo: Zoo) -> None:
        columns = cast(Task, self).columns
        zoo.require_columns(columns, " to learn from")

    def boosted(
        self, space: WeightSpace, batches: Iterable[Batch], prepared: Mapping[str, Any]
    ) -> nn.Module | None:
        return None

    def attach(self, model: Any, zoo: Zoo) -> None:
        pass

    def outputs(self, model: Any, batch: Batch) -> Any:
        return model(batch.state)

    def scores(self, table: pa.Table) -> dict[str, Any]:
        return {}

    def figures(
        self, metrics: Mapping[str, Any], evaluation: Evaluation
    ) -> Sequence[Figure | Table]:
        return ()
