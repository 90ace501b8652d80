"""Progress of running tasks: each writes its node and the amount done to Ray's key-value store.

This needs no extra process or connection. If a number is late or missing, only a progress bar lags.
"""

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")

NAMESPACE = b"dwszoo-progress"
SECONDS = 0.5
"""Minimum time between two reports of a task, and between two polls."""
PER_SECOND = 100
"""Maximum reports of all tasks per second: if there are many, each is reported and polled less
often."""


class ProgressReporter:
    """Called by a task with the amount of work done since the last call."""

    def __init__(self, key: str, seconds: float, done: int = 0):
        self.key, self.seconds, self.done = key, seconds, done
        self.due: float | None = None

    def begin(self) -> bool:
        """Called first by the task; False if the driver has given it up and resubmitted it."""
        import ray

        self.done = 0
        self.put("node", ray.get_runtime_context().get_node_id())
        return self.look_up("given-up") is None

    def node(self) -> str | None:
        """The id of the node where the task began; None if it is not known to have begun."""
        return self.look_up("node")

    def give_up(self):
        """Called by the driver when it no longer waits for the task."""
        self.put("given-up", "yes")

    def __call__(self, count: int):
        self.done += count
        now = time.monotonic()
        if self.due is None:  # set on the task's machine: clocks of machines are unrelated
            self.due = now + self.seconds
        elif now >= self.due:
            self.due = now + self.seconds
            self.put("done", str(self.done))

    def put(self, what: str, value: str):
        from ray.exceptions import RayError
        from ray.experimental.internal_kv import _internal_kv_put

        with suppress(RayError):
            _internal_kv_put(f"{self.key}-{what}", value, namespace=NAMESPACE)

    def look_up(self, what: str) -> str | None:
        """The value, or None if there is none or the store does not answer."""
        from ray.exceptions import RayError

        with suppress(RayError):
            return self.get(what)
        return None

    def get(self, what: str) -> str | None:
        from ray.experimental.internal_kv import _internal_kv_get

        value = _internal_kv_get(f"{self.key}-{what}", namespace=NAMESPACE)
        return value.decode() if value else None


class ProgressReader:
    """Reads the progress of the tasks of one fan-out, in the driver."""

    def __init__(self, num_tasks: int):
        """`num_tasks`: the most tasks of the fan-out that run at the same time."""
        self.name, self.num_reporters, self.due = uuid.uuid4().hex, 0, 0.0
        self.seconds = max(SECONDS, num_tasks / PER_SECOND)

    def reporter(self, done: int = 0) -> ProgressReporter:
        """A reporter for the next task; `done` is the progress of the previous attempt, if any."""
        self.num_reporters += 1
        return ProgressReporter(f"{self.name}-{self.num_reporters}", self.seconds, done)

    def read(
        self, under_way: Iterable[tuple[Item, ProgressReporter]]
    ) -> Iterator[tuple[Item, int]]:
        """The items that progressed since the last poll, with the amount done.

        There are none if the last poll was recent. A retried task starts from zero again, and is
        left out until it is further than before.
        """
        from ray.exceptions import RayError

        if time.monotonic() < self.due:
            return
        with suppress(RayError):
            for item, reporter in under_way:
                done = int(reporter.get("done") or 0)
                if done > reporter.done:
                    reporter.done = done
                    yield item, done
        self.due = time.monotonic() + self.seconds

    def clear(self):
        """Delete the numbers; returns soon even if the cluster no longer answers."""
        from ray.exceptions import RayError
        from ray.experimental.internal_kv import internal_kv_get_gcs_client

        with suppress(RayError):
            internal_kv_get_gcs_client().internal_kv_del(
                self.name.encode(), del_by_prefix=True, namespace=NAMESPACE, timeout=SECONDS
            )
