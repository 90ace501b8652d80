"""Many independent tasks on a Ray cluster, a bounded number at a time."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

WINDOW = 2
"""Tasks submitted for each that can run: enough that no worker waits, few enough that the scheduler stays fast."""


def run_tasks(
    function: Callable[..., Any],
    items: Iterable[Item],
    shared: tuple[Any, ...],
    num_workers: int,
    gpus_per_worker: float = 0,
    **options: Any,
) -> Iterator[tuple[Item, Any]]:
    """`(item, function(*shared, item, **options))` for each item, as they finish; an exception where the task raised one.

    `shared` is put into the object store once. A task that raised, or whose worker died, is tried again (three times) on
    whatever node has room, and does not stop the others.
    """
    import ray

    remote = ray.remote(num_cpus=1, num_gpus=gpus_per_worker, max_retries=3, retry_exceptions=True)(function)
    references = [ray.put(value) for value in shared]
    waiting, running = iter(items), {}
    try:
        while True:
            for item in waiting:
                running[remote.remote(*references, item, **options)] = item
                if len(running) >= num_workers * WINDOW:
                    break
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            item = running.pop(done[0])
            try:
                yield item, ray.get(done[0])
            except ray.exceptions.RayTaskError as error:
                yield item, error.cause if isinstance(getattr(error, "cause", None), Exception) else error
            except ray.exceptions.RayError as error:
                yield item, error
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
