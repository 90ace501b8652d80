"""Scheduled runs as Prefect's deployments: of this process, or of a work pool."""

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
from pipeline.errors import InputError, WorkError, nearest, reason

ONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
"""A run that is due while the one before it is still at work is skipped."""


def deployed(name: str, run: ScheduledRun, **where: Any) -> RunnerDeployment:
    """The run as Prefect knows it; without `where` it is this process that starts it."""
    return flows.run.to_deployment(
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
    """Register the runs on a work pool, whose workers start them; those of the same names are replaced.

    Raises InputError where there is no such pool, or where its workers could not find the folder of
    a run; WorkError where the server does not take one.
    """
    variables = job_variables(runs, pool)
    for name, run in runs.items():
        deployment = deployed(name, run, work_pool_name=pool, job_variables=variables)
        try:
            deployment.apply()
        except (DeploymentApplyError, httpx.HTTPError) as error:
            raise WorkError(
                f"the Prefect server does not take {name} on work pool {pool!r}: {reason(error)}"
            ) from error


def job_variables(runs: Mapping[str, ScheduledRun], pool: str) -> dict[str, Any]:
    """A process begins where we are, so that a recipe's file and a function of the user's are found there.

    A container has folders of its own.
    """
    with get_client(sync_client=True) as client:
        try:
            kind = client.read_work_pool(pool).type
        except ObjectNotFound as error:
            known = [found.name for found in client.read_work_pools()]
            raise InputError(
                f"the Prefect server has no work pool {pool!r}: `prefect work-pool create {pool} --type process` makes "
                f"one{nearest(pool, known)}"
            ) from error
    if kind == "process":
        return {"working_dir": str(Path.cwd())}
    for name, run in runs.items():
        if not run.out.is_absolute():
            raise InputError(
                f"{name}: out must be an absolute path for work pool {pool!r}, whose runs are in containers "
                f"(type {kind}), got {run.out}: name a folder of a volume that they all have"
            )
    return {}
