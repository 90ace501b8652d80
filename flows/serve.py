"""Runs on a schedule, in processes of their own."""

import asyncio
import signal
from collections.abc import Iterable, Mapping

from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner

from flows.deployments import deployed
from flows.interruption import SIGNALS, received
from flows.schedule import ScheduledRun

QUERY_SECONDS = 2
"""How often the server is asked what is due."""


def serve_runs(runs: Mapping[str, ScheduledRun]):
    """Starts each run when it is due, until a signal: then ends what is at work, and raises KeyboardInterrupt."""
    try:
        asyncio.run(serve_deployments([deployed(name, run) for name, run in runs.items()]))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def serve_deployments(deployments: Iterable[RunnerDeployment]):
    """Cancelled by a signal: leaving `Runner.start` pauses the schedules and sends SIGTERM to the runs at work."""
    runner, loop = Runner(query_seconds=QUERY_SECONDS), asyncio.get_running_loop()
    for deployment in deployments:
        await runner.aadd_deployment(deployment)
    serving = asyncio.ensure_future(runner.start())

    def stop(signum: int, *_):
        received.append(signum)
        loop.set_exception_handler(lambda *_: None)  # what Prefect leaves unfinished is cancelled
        loop.call_soon_threadsafe(serving.cancel)

    runner.handle_sigterm = stop  # Prefect's own leaves at once
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, stop)
    await serving
