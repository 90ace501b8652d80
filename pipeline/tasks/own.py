"""A user's own task, which may leave out the optional parts."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.functions import Own, failures_of
from pipeline.tasks.columns import require_int64
from pipeline.tasks.task import Evaluation, Figure, Monitor, Table, Task, TaskConfig

NEEDED = (
    "columns",
    "monitor",
    "check",
    "prepare",
    "build",
    "loss",
    "sums",
    "metrics",
    "predictions",
)


def task_of(config: TaskConfig | Own, trusted: Collection[str]) -> Task:
    """The task of a configuration: itself, or what the user's function makes.

    Raises InputError if that function is not trusted.
    """
    if isinstance(config, Own):
        return OwnTask(config.make("training.task", trusted, *NEEDED))
    return cast(Task, config)


class OwnTask:
    """A user's task, with the parts of `TaskConfig` that it does not have.

    Raises InputError if a part fails or returns something of the wrong type.
    """

    def __init__(self, task: Any):
        self._task, self._title = task, f"task {type(task).__name__}"
        names = self.columns
        if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
            raise self._error("columns", "be names of columns", names)
        if not isinstance(self.monitor, Monitor):
            raise self._error("monitor", "be a pipeline.tasks.Monitor", self.monitor)
        if not isinstance(self.group, int) or self.group < 1:
            raise self._error("group", "be a number of members, at least 1", self.group)

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self._task, name):
            part = getattr(TaskConfig, name)
            return MethodType(part, self) if callable(part) else part
        part = getattr(self._task, name)
        if not callable(part):
            return part

        @wraps(part)
        def call(*arguments: Any) -> Any:
            with failures_of(f"{name} of {self._title}"):
                return part(*arguments)

        return call

    def _own(self, name: str, *arguments: Any) -> Any:
        return self.__getattr__(name)(*arguments)

    def _error(self, name: str, expected: str, found: Any) -> InputError:
        return InputError(f"{name} of {self._title} must {expected}, found {found!r}")

    def check(self, zoo: Zoo) -> None:
        zoo.require_columns(self.columns, " to learn from")
        for name in self.columns if zoo.is_sealed else ():
            require_int64(zoo, name)
        self._own("check", zoo)

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        prepared = self._own("prepare", zoo)
        try:
            return dict(json.loads(json.dumps(prepared, allow_nan=False)))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"prepare of {self._title} must return a dict of JSON values, found {prepared!r}: "
                f"{error}"
            ) from error

    def build(self, encoder: nn.Module, prepared: Mapping[str, Any]) -> nn.Module:
        with torch.device("cpu"):  # models are counted on the meta device, which has no numbers
            model = self._own("build", encoder, prepared)
        if not isinstance(model, nn.Module):
            raise self._error("build", "return a torch module", model)
        return model

    def loss(self, model: nn.Module, batch: Any, keys: Tensor) -> Tensor:
        loss = self._own("loss", model, batch, keys)
        if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
            raise self._error("loss", "return one number as a tensor with a gradient", loss)
        return loss

    def sums(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        sums = self._own("sums", model, batch)
        try:
            return {name: torch.as_tensor(value) for name, value in sums.items()}
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise self._error("sums", "return tensors by name", sums) from error

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        metrics = self._own("metrics", sums)
        if not isinstance(metrics, Mapping):
            raise self._error("metrics", "be numbers by name", metrics)
        if self.monitor.metric not in metrics:
            raise InputError(
                f"metrics of {self._title} must have {self.monitor.metric!r}, which it monitors, "
                f"found {', '.join(metrics)}"
            )
        try:
            return {name: float(value) for name, value in metrics.items()}
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._error("metrics", "be numbers by name", metrics) from error

    def predictions(self, outputs: Any) -> Mapping[str, Any]:
        columns = self._own("predictions", outputs)
        if not isinstance(columns, Mapping):
            raise self._error("predictions", "return columns by name", columns)
        return columns

    def figures(
        self, metrics: Mapping[str, Any], evaluation: Evaluation
    ) -> Sequence[Figure | Table]:
        made = self._own("figures", metrics, evaluation)
        if not isinstance(made, Sequence) or not all(isinstance(x, Figure | Table) for x in made):
            raise self._error("figures", "return figures and tables of pipeline.tasks", made)
        return [self._guarded(part) if isinstance(part, Figure) else part for part in made]

    def _guarded(self, figure: Figure) -> Figure:
        def draw(path: Path):
            from pipeline.figures.picture import files_of

            for file in files_of(path):
                with failures_of(f"figure {figure.file} of {self._title}"):
                    figure.draw(file)

        return replace(figure, draw=draw)
