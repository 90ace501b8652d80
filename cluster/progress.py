"""How far tasks are while they run: a number a task in Ray's key-value store, where the driver looks now and then.

It costs no process and no connection of its own. A number that comes late or never leaves a bar standing, nothing else.
"""

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")

NAMESPACE = b"dwszoo-progress"
SECONDS = 0.5
"""A task tells, and the driver looks, no more often."""


class Teller:
    """What a task calls with how much it has done since the last call."""

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


class Listener:
    """What the driver hears of the tasks of one fan-out."""

    def __init__(self):
        self.name, self.num_tellers, self.due = uuid.uuid4().hex, 0, 0.0

    def teller(self) -> Teller:
        """For the next task."""
        self.num_tellers += 1
        return Teller(f"{self.name}-{self.num_tellers}")

    def hear(self, under_way: Iterable[tuple[Item, Teller]]) -> Iterator[tuple[Item, int]]:
        """The items of which more is done than was known, with how much; none where it is too early to look again.

        A task that is tried again begins at zero: nothing is heard of it before it is further than it was.
        """
        from ray.exceptions import RayError
        from ray.experimental.internal_kv import _internal_kv_get

        if time.monotonic() < self.due:
            return
        with suppress(RayError):
            for item, teller in under_way:
                done = int(_internal_kv_get(teller.key, namespace=NAMESPACE) or 0)
                if done > teller.done:
                    teller.done = done
                    yield item, done
        self.due = time.monotonic() + SECONDS

    def forget(self):
        """Ends in time even where the cluster does not answer any more."""
        from ray.exceptions import RayError
        from ray.experimental.internal_kv import internal_kv_get_gcs_client

        with suppress(RayError):
            internal_kv_get_gcs_client().internal_kv_del(
                self.name.encode(), del_by_prefix=True, namespace=NAMESPACE, timeout=SECONDS
            )
