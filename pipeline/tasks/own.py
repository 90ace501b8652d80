"""A task of the user's own, which may leave out what many tasks do not need."""

from types import MethodType
from typing import Any

from pipeline.tasks.task import TaskConfig

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
    """The task, with the parts of `TaskConfig` where it has none of its own."""

    def __init__(self, task: Any):
        self._task = task

    def __getattr__(self, name: str) -> Any:
        if hasattr(self._task, name):
            return getattr(self._task, name)
        part = getattr(TaskConfig, name)
        return MethodType(part, self) if callable(part) else part
