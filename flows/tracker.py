"""Trackers show what a flow does: in Prefect if it runs the flow, otherwise nowhere."""

from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any

from pipeline.location import Location


class Tracker:
    """A tracker that shows nothing."""

    def run(self, stage: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Run a stage; returns its result."""
        return stage(*arguments, **options)

    def progress(self, title: str, done: int, total: int, note: str):
        """`done` of `total` members are fitted, trained on or copied; called often."""

    def event(self, name: str, folder: Location):
        """Something happened to a folder."""

    def results(self, run: Path):
        """The report of a run has been drawn."""


tracker: ContextVar[Tracker] = ContextVar("tracker", default=Tracker())  # noqa: B039 - stateless


def stage(function: Callable[..., Any]) -> Callable[..., Any]:
    """A step of a flow. It runs each time, and finds out from files what is already done."""

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        return tracker.get().run(function, *arguments, **options)

    return run
