"""A task of the user's own, which may leave out what many tasks do not need."""

import json
from collections.abc import Mapping
from types import MethodType
from typing import Any

from torch import Tensor

from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.tasks.task import TaskConfig, require_columns

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


class OwnTask:
    """The task, with the parts of `TaskConfig` where it has none of its own; what it returns is checked."""

    def __init__(self, task: Any):
        self._task = task

    def __getattr__(self, name: str) -> Any:
        if hasattr(self._task, name):
            return getattr(self._task, name)
        part = getattr(TaskConfig, name)
        return MethodType(part, self) if callable(part) else part

    def check(self, zoo: Zoo) -> None:
        require_columns(zoo, self.columns)
        self._task.check(zoo)

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        prepared = self._task.prepare(zoo)
        try:
            return dict(json.loads(json.dumps(prepared, allow_nan=False)))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"prepare of {self._title} must return a dict of JSON values, found {prepared!r}: {error}"
            ) from error

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        metrics = self._task.metrics(sums)
        if self.monitor.metric not in metrics:
            raise InputError(
                f"metrics of {self._title} must have {self.monitor.metric!r}, which it monitors, found {', '.join(metrics)}"
            )
        return {name: float(value) for name, value in metrics.items()}

    @property
    def _title(self) -> str:
        return f"task {type(self._task).__name__}"
