"""What a flow does is shown by a tracker: of Prefect where it runs the flow, elsewhere of nobody."""

from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any

from pipeline.location import Location


class Tracker:
    """One that shows nothing."""

    def run(self, stage: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What a stage returns."""
        return stage(*arguments, **options)

    def progress(self, title: str, done: int, total: int, note: str):
        """`done` of `total` members are fitted, trained on or copied; called often."""

    def event(self, name: str, folder: Location):
        """What has become of a folder."""

    def results(self, run: Path):
        """The report of a run is drawn."""


tracker: ContextVar[Tracker] = ContextVar("tracker", default=Tracker())  # noqa: B039 - it has no state


def stage(function: Callable[..., Any]) -> Callable[..., Any]:
    """A step of a flow. It is run anew each time: what is done already, it finds out from files."""

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        return tracker.get().run(function, *arguments, **options)

    return run
