"""Work that needs Ray, and its time limit."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cluster.session import ray_session
from flows.tracker import stage
from pipeline.config import ResourcesConfig
from pipeline.errors import TimeLimitError
from pipeline.location import Location

Result = TypeVar("Result")


@stage
def on_ray(
    work: Callable[[], Result], resources: ResourcesConfig, folder: Location, is_needed: bool
) -> Result:
    """Do `work`, which writes to `folder`, in a Ray session if it is needed; returns its result.

    A retry gets a new session, because one whose cluster was lost cannot be used any more.
    """
    with ray_session(
        resources.workers,
        resources.gpus_per_worker,
        start=is_needed,
        fewest=resources.fewest,
        folder=folder if isinstance(folder, Path) else None,
        groups=resources.groups,
    ):
        return work()


def time_limit(resources: ResourcesConfig, what: str) -> Callable[[], None]:
    """A check that raises TimeLimitError once a stage that starts now has exceeded its limit."""
    begun, minutes = time.monotonic(), resources.stage_minutes

    def look():
        if minutes is not None and time.monotonic() - begun > 60 * minutes:
            raise TimeLimitError(
                f"{what} took longer than resources.stage_minutes ({minutes:g}): "
                "run the same command again to continue, or raise the limit"
            )

    return look
