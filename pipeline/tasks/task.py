"""The seam between what can be learned and how it is trained: training knows a task as `Task` alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pipeline.config import Config

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from torch import Tensor, nn

    from dwsnet.weight_space import WeightSpace
    from pipeline.archive.shard import Block
    from pipeline.archive.zoo import Zoo

LABEL = "label"
"""The column whose numbers index the class names of the signals; in any other the values are the classes."""


@dataclass(frozen=True)
class Monitor:
    """The metric by which the best epoch is chosen."""

    metric: str
    more_is_better: bool = True


@dataclass(frozen=True)
class Batch:
    """Members that are learned from together, or scored together."""

    state: Block
    """Stacked state dicts: `(batch, *spec.shape)` float32 by tensor name."""
    columns: Mapping[str, Tensor | list[Any]]
    """The task's catalog columns: `(batch,)` int64, or float32 with NaN where a number is null; of other types a list. A
    column of integers that has nulls has -1 there."""
    positions: Tensor
    """`(batch,)` int64: rows of the catalog."""
    class_names: tuple[str, ...] = ()
    """Of their zoo: what the numbers of the column `label` stand for there."""

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
        """Some that come one after another: views of the tensors."""
        columns = {name: values[part] for name, values in self.columns.items()}
        state = {name: tensor[part] for name, tensor in self.state.items()}
        return replace(self, state=state, columns=columns, positions=self.positions[part])

    def to(self, device: torch.device) -> Batch:
        """On a device; what lies in page-locked memory is copied while other work goes on."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pin_memory(self) -> Batch:
        """In page-locked memory, from which a GPU copies by itself."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        columns = {
            name: values if isinstance(values, list) else change(values)
            for name, values in self.columns.items()
        }
        state = {name: change(tensor) for name, tensor in self.state.items()}
        return replace(self, state=state, columns=columns, positions=change(self.positions))

    def with_state(self, state: Block) -> Batch:
        """The same members with other weights: augmented ones."""
        return replace(self, state=state)


@dataclass(frozen=True)
class Figure:
    """A picture of the report."""

    file: str
    """Its name, ending in .svg or .png."""
    text: str
    """The sentence above it."""
    draw: Callable[[Path], None]
    """Draws it into a file."""


@dataclass(frozen=True)
class Table:
    """A table of the report."""

    text: str
    """The sentence above it."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Cells as they are shown."""


@dataclass(frozen=True)
class Evaluation:
    """What a task may make its figures from: the best model, on the test split."""

    zoo: Zoo
    model: nn.Module
    """In evaluation mode, with what `Task.attach` gave it."""
    prepared: Mapping[str, Any]
    table: pa.Table
    """Of predictions, one row a member: the catalog's naming columns, then those of `Task.predictions`."""


class Task(Protocol):
    """What can be learned from a zoo. A task of your own is an object with these parts, or a subclass of `TaskConfig`.

    `columns`, `group`, `monitor`, `check`, `prepare`, `build`, `loss`, `sums`, `metrics` and `predictions` are needed; the
    others are as in `TaskConfig` where they are missing.
    """

    columns: tuple[str, ...]
    """Catalog columns that come along with each batch."""
    group: int
    """Members of one signal that come together, one after another: 2 for pairs of views, else 1."""
    monitor: Monitor

    def check(self, zoo: Zoo) -> None:
        """Raises InputError, in one sentence, where this zoo cannot teach the task.

        Asked before anything is fitted too, with a zoo of which there is only the record and the schema of its catalog.
        """

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        """Facts of the train split, as JSON: names of classes, mean and standard deviation of targets. Kept in model.json.

        `zoo.members("train")` are those that are learned from, where these are fewer than there are.
        """

    def build(self, encoder: nn.Module, prepared: Mapping[str, Any]) -> nn.Module:
        """The model: a head on the encoder. Its parameters are drawn from torch's generator."""

    def boosted(
        self, space: WeightSpace, batches: Iterable[Batch], prepared: Mapping[str, Any]
    ) -> nn.Module | None:
        """Gradient boosting on statistics of the weights, fitted to batches of the train split: a module that stands in for
        the model wherever it is scored. None where there is no such thing."""

    def attach(self, model: nn.Module, zoo: Zoo) -> None:
        """Give the model, as buffers that are not persistent, what `loss` and `sums` need beside the batch: images, a grid.

        Called once in each process, before training and before scoring, and not for predictions that are not scored.
        """

    def loss(self, model: nn.Module, batch: Batch, keys: Tensor) -> Tensor:
        """The mean loss over a batch. `keys` `(batch,)` int64 are the members' own for augmentation in this epoch."""

    def sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """What adds up over batches and ranks to all that `metrics` needs."""

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Metrics of a split, `monitor.metric` and 'loss' among them.

        `trivial_NAME` is metric NAME of the best answer that does not look at the weights: the most frequent class, the mean,
        the network as it was. Reports show both together. What ends in `accuracy` is a share, shown in percent.
        """

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """What `predictions` is made from: the model's answer to the state dicts of a batch."""

    def predictions(self, outputs: Any) -> Mapping[str, Any]:
        """Columns of a table, one entry a member of the batch; members whose numbers are not finite become null."""

    def scores(self, table: pa.Table) -> dict[str, Any]:
        """Metrics that need all members of a split at once, from the table of predictions: JSON values."""

    def figures(
        self, metrics: Mapping[str, Any], evaluation: Evaluation
    ) -> Sequence[Figure | Table]:
        """Pictures and tables of the report, in order; training curves it has for every task."""


class TaskConfig(Config):
    """A task of ours: its fields are the configuration, its methods the task. The parts that many tasks do not need."""

    group: ClassVar[int] = 1

    def check(self, zoo: Zoo) -> None:
        zoo.require_columns(self.columns, " to learn from")

    def boosted(
        self, space: WeightSpace, batches: Iterable[Batch], prepared: Mapping[str, Any]
    ) -> nn.Module | None:
        return None

    def attach(self, model: nn.Module, zoo: Zoo) -> None:
        pass

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        return model(batch.state)

    def scores(self, table: pa.Table) -> dict[str, Any]:
        return {}

    def figures(
        self, metrics: Mapping[str, Any], evaluation: Evaluation
    ) -> Sequence[Figure | Table]:
        return ()
