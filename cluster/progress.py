"""Progress of running tasks: one number a task in Ray's key-value store, which the driver polls.

It needs no process and no connection of its own. Where a number is late or missing, a progress bar is late, nothing else.
"""

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")

NAMESPACE = b"dwszoo-progress"
SECONDS = 0.5
"""Least time between two reports of a task, and between two polls."""


class ProgressReporter:
    """Called by a task with how much it has done since the last call."""

    def __init__(self, key: str):
        self.key, self.done, self.due = key, 0, None

    def __call__(self, count: int):
        self.done += count
        now = time.monotonic()
        if self.due is None:  # clocks of several machines have nothing to do with each other
            self.due = now + SECONDS
        elif now >= self.due:
            self.due = now + SECONDS
            from ray.exceptions import RayError
            from ray.experimental.internal_kv import _internal_kv_put

            with suppress(RayError):
                _internal_kv_put(self.key, str(self.done), namespace=NAMESPACE)


class ProgressReader:
    """Reads the progress of the tasks of one fan-out, in the driver."""

    def __init__(self):
        self.name, self.num_reporters, self.due = uuid.uuid4().hex, 0, 0.0

    def reporter(self) -> ProgressReporter:
        """For the next task."""
        self.num_reporters += 1
        return ProgressReporter(f"{self.name}-{self.num_reporters}")

    def read(
        self, under_way: Iterable[tuple[Item, ProgressReporter]]
    ) -> Iterator[tuple[Item, int]]:
        """The items that are further than when last read, with how much is done; none where it is too early to poll again.

        A task that is retried begins at zero: it is left out until it is further than before.
        """
        from ray.exceptions import RayError
        from ray.experimental.internal_kv import _internal_kv_get

        if time.monotonic() < self.due:
            return
        with suppress(RayError):
            for item, reporter in under_way:
                done = int(_internal_kv_get(reporter.key, namespace=NAMESPACE) or 0)
                if done > reporter.done:
                    reporter.done = done
                    yield item, done
        self.due = time.monotonic() + SECONDS

    def clear(self):
        """Delete the numbers; returns soon even where the cluster no longer answers."""
        from ray.exceptions import RayError
        from ray.experimental.internal_kv import internal_kv_get_gcs_client

        with suppress(RayError):
            internal_kv_get_gcs_client().internal_kv_del(
                self.name.encode(), del_by_prefix=True, namespace=NAMESPACE, timeout=SECONDS
            )
