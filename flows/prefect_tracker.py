"""Flow runs in Prefect: stages as tasks, progress and results as artifacts, folders as events."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prefect import task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.events import emit_event
from prefect.runtime import deployment
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from prefect.states import State
from prefect.tasks import exponential_backoff

from flows.tracker import Tracker
from pipeline.errors import DivergenceError, WorkError
from pipeline.location import Location

RETRIES = 2
BACKOFF_SECONDS = 30
"""Delay before the first retry; it doubles for the second."""
PROGRESS_SECONDS = 5.0
"""Minimum time between two updates of a progress artifact."""
ANSWER_SECONDS = 5.0
"""Time limit of the server for an artifact, because the work waits for it."""


class PrefectTracker(Tracker):
    def __init__(self, folder: str | Path):
        """`folder` is the flow run's folder, after which its artifacts are named."""
        self.name = Path(folder).name
        self.bars: dict[str, Any] = {}
        self.due: dict[str, float] = {}
        self.answers = True
        """Whether the server has accepted all artifacts so far."""

    def run(self, stage: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Run a stage as a task. Nested stages are not retried themselves: the outermost one is."""
        tracked = task(
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=0 if TaskRunContext.get() else RETRIES,
            retry_delay_seconds=exponential_backoff(BACKOFF_SECONDS),
            retry_condition_fn=may_pass,
        )
        return tracked(stage)(*arguments, **options)

    def progress(self, title: str, done: int, total: int, note: str):
        now = time.monotonic()
        if not self.answers or (done < total and now < self.due.get(title, now)):
            return
        self.due[title] = now + PROGRESS_SECONDS
        percent = 100 * done / max(1, total)
        text = f"{title}: {done:,} of {total:,}, {note}"
        with self.optional():
            if title in self.bars:
                update_progress_artifact(self.bars[title], percent, text)
            else:
                key = self.key(title)
                self.bars[title] = create_progress_artifact(percent, key, text)

    def event(self, name: str, folder: Location):
        place = folder.resolve()
        uri = place.as_uri() if isinstance(place, Path) else str(place)
        emit_event(name, {"prefect.resource.id": uri, "prefect.resource.name": folder.name})

    def results(self, run: Path):
        from pipeline.report.markdown import write_markdown

        if self.answers:
            with self.optional():
                create_markdown_artifact(write_markdown(run), self.key("results"), str(run))

    def key(self, title: str) -> str:
        """Prefect's key of an artifact; each run adds a version of it."""
        return "-".join(re.findall("[a-z0-9]+", f"{self.name} {title}".lower()))

    @contextmanager
    def optional(self) -> Iterator[None]:
        """Make requests in the block once, with a short timeout: the work does not need them."""
        settings = {
            PREFECT_CLIENT_MAX_RETRIES: 0,
            PREFECT_API_REQUEST_TIMEOUT: ANSWER_SECONDS,
        }
        try:
            with temporary_settings(settings):
                yield
        except httpx.HTTPError:
            self.answers = False


def may_pass(_task: Any, _run: Any, state: State) -> bool:
    """Whether a stage may succeed if it is retried: shards failed, or the cluster was lost.

    Only for scheduled runs: whoever started a run by hand sees the error, and decides.
    """
    may = isinstance(state.data, WorkError | ConnectionError)
    return deployment.id is not None and may and not isinstance(state.data, DivergenceError)
