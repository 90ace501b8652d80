"""Runs recipes on a schedule, each in its own process."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.states import Crashed

from flows.deployments import deployed
from flows.interruption import SIGNALS, received
from flows.schedule import ScheduledRun
from flows.server import answers
from flows.temporary_server import one_line
from pipeline.archive.files import exclusive
from pipeline.errors import InputError

QUERY_SECONDS = 2
"""How often the server is asked which runs are due, or whether it is back."""
LEAST_SECONDS = 10.0
"""A failure sooner than this is not an outage, and would be repeated."""

logger = logging.getLogger(__name__)


def serve_runs(runs: Mapping[str, ScheduledRun]):
    """Start each run when it is due; on a signal, end running ones and raise KeyboardInterrupt."""
    try:
        asyncio.run(serve([deployed(name, run) for name, run in runs.items()]))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def serve(deployments: Sequence[RunnerDeployment]):
    """Serve until cancelled by a signal. If the server goes away, runs end until it is back."""
    serving, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert serving is not None

    def stop(signum: int, *_):
        received.append(signum)
        loop.set_exception_handler(lambda *_: None)  # what Prefect leaves unfinished is cancelled
        loop.call_soon_threadsafe(serving.cancel)

    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, stop)
    while True:
        began = time.monotonic()
        try:
            await serve_until_lost(deployments, stop)
        except (httpx.HTTPError, RuntimeError, ExceptionGroup) as error:
            if time.monotonic() - began < LEAST_SECONDS:
                raise
            logger.warning(
                "Prefect's server no longer answers (%s): scheduled runs wait until it does",
                one_line(error),
            )
        while not await asyncio.to_thread(answers):
            await asyncio.sleep(QUERY_SECONDS)


async def serve_until_lost(deployments: Sequence[RunnerDeployment], stop: Callable):
    """Leaving `Runner.start` pauses the schedules and sends SIGTERM to running runs."""
    runner = Runner(query_seconds=QUERY_SECONDS)
    setattr(runner, "handle_sigterm", stop)  # noqa: B010 - Prefect's own leaves at once
    await end_killed_runs([await runner.aadd_deployment(one) for one in deployments])
    await runner.start()


async def end_killed_runs(deployments: Sequence[UUID]):
    """Tell the server which runs have ended: those killed with `serve` would block later ones."""
    unfinished = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    async with get_client() as client:
        runs = await client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[*deployments])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unfinished))
            ),
        )
        for run in runs:
            if is_free(Path(run.parameters["out"])):
                message = "Its process was killed: the next run continues."
                await client.set_flow_run_state(run.id, Crashed(message=message))


def is_free(folder: Path) -> bool:
    """Whether no process is using the folder."""
    try:
        with exclusive(folder):
            return True
    except InputError:
        return False
