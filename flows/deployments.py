"""Scheduled runs as Prefect deployments, served by this process or by a work pool."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import DeploymentApplyError, EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Schedule

from flows import flows
from flows.schedule import ScheduledRun
from flows.shadows import require_no_shadows
from pipeline.errors import InputError, WorkError, nearest, reason

ONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
"""A run that is due while the previous one is still running is skipped."""


def deployed(name: str, run: ScheduledRun, **where: Any) -> RunnerDeployment:
    """The run as a Prefect deployment; without `where`, this process starts it."""
    return flows.run.to_deployment(  # type: ignore[return-value]  # no coroutine outside a loop
        name,
        schedules=[Schedule(**run.times)],
        parameters={
            "recipe": run.recipe,
            "out": str(run.out.resolve()),
            "settings": list(run.settings),
        },
        concurrency_limit=ONE,
        entrypoint_type=EntrypointType.MODULE_PATH,
        **where,
    )


def deploy_runs(runs: Mapping[str, ScheduledRun], pool: str):
    """Register the runs on a work pool, whose workers start them; replaces runs of the same names.

    Raises InputError if there is no such pool or its workers would not find the folder of a run,
    and WorkError if the server rejects one.
    """
    variables = job_variables(runs, pool)
    for name, run in runs.items():
        deployment = deployed(name, run, work_pool_name=pool, job_variables=variables)
        try:
            deployment.apply()
        except (DeploymentApplyError, httpx.HTTPError) as error:
            raise WorkError(
                f"the Prefect server rejects {name} on work pool {pool!r}: {reason(error)}"
            ) from error


def job_variables(runs: Mapping[str, ScheduledRun], pool: str) -> dict[str, Any]:
    """Start processes in the current folder, so that they find files and functions of the user.

    Modules there must not hide others. Containers have their own folders: nothing is set, but runs
    must have absolute paths.
    """
    if not pool:
        raise InputError("--pool must be the name of a work pool, got an empty one")
    with get_client(sync_client=True) as client:
        try:
            kind = client.read_work_pool(pool).type
        except ObjectNotFound as error:
            known = [found.name for found in client.read_work_pools()]
            raise InputError(
                f"the Prefect server has no work pool {pool!r}: "
                f"`prefect work-pool create {pool} --type process` makes one{nearest(pool, known)}"
            ) from error
    if kind == "process":
        require_no_shadows(Path.cwd())
        return {"working_dir": str(Path.cwd())}
    for name, run in runs.items():
        if not run.out.is_absolute():
            raise InputError(
                f"{name}: out must be an absolute path for work pool {pool!r}, whose runs are in "
                f"containers (type {kind}), got {run.out}: name a folder of a volume that they "
                "share"
            )
    return {}
