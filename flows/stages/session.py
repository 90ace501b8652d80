"""Work that needs Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cluster.session import ray_session
from flows.tracker import stage
from pipeline.config import ResourcesConfig
from pipeline.location import Location

Result = TypeVar("Result")


@stage
def on_ray(
    work: Callable[[], Result], resources: ResourcesConfig, folder: Location, is_needed: bool
) -> Result:
    """What `work` that writes to `folder` returns, in one Ray session; without one where it is not needed.

    A retry has a session of its own: one whose cluster was lost is of no use any more.
    """
    with ray_session(
        resources.workers,
        resources.gpus_per_worker,
        start=is_needed,
        fewest=resources.fewest,
        folder=folder if isinstance(folder, Path) else None,
    ):
        return work()
