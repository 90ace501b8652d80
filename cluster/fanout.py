"""Many independent tasks on a Ray cluster, a bounded number at a time."""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from itertools import islice
from typing import Any, TypeVar

from cluster.progress import SECONDS, ProgressReader
from cluster.session import require_ray

Item = TypeVar("Item")

WINDOW = 2
"""Tasks submitted for each that can run: enough that no worker waits, few enough that the scheduler stays fast."""
KEPT = {
    "max_calls": 0,
    "runtime_env": {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}},
}
"""Of tasks on GPUs: processes are used again, so that imports, the CUDA context and compiled kernels are paid for once. The
next task of a process may be given another GPU, so it sees all of them."""


def run_tasks(
    function: Callable[..., Any],
    items: Iterable[Item],
    shared: tuple[Any, ...],
    num_workers: int,
    gpus_per_worker: float = 0,
    on_progress: Callable[[Item, int], None] | None = None,
    on_poll: Callable[[], None] | None = None,
    **options: Any,
) -> Iterator[tuple[Item, Any]]:
    """`(item, function(*shared, item, **options))` for each item, as they finish; an exception where the task raised one.

    `shared` is put into the object store once. A task that raised, or whose worker died, is tried again (three times) on
    whatever node has room, and does not stop the others.

    Left early, tasks that are under way end with the session: to cancel them while others are being handed out makes Ray
    end this process, by a check of its own.

    With `on_progress`, the function takes `advance` too, to call with how much it has done since the last call; and
    `on_progress(item, done)` is called for each running item that has advanced: about twice per
    second, less often with more than 25 workers. `on_poll` is called at least twice per second; an
    error it raises ends the fan-out.
    """
    import ray

    needs = {"num_cpus": 1, "max_retries": 3, "retry_exceptions": True}
    if gpus_per_worker:
        function, needs = on_given_gpu(function), needs | {"num_gpus": gpus_per_worker} | KEPT
    remote = ray.remote(**needs)(function)
    references = [ray.put(value) for value in shared]
    window = num_workers * WINDOW
    waiting, running, reader = iter(items), {}, ProgressReader(window)
    try:
        while True:
            for item in islice(waiting, window - len(running)):
                reporter = reader.reporter()
                extra = {"advance": reporter} if on_progress else {}
                running[remote.remote(*references, item, **options, **extra)] = item, reporter
            if not running:
                return
            ray.wait(list(running), num_returns=1, timeout=SECONDS)
            done, _ = ray.wait(list(running), num_returns=len(running), timeout=0)  # all by now
            require_ray()
            if on_poll:
                on_poll()
            if on_progress:
                for item, count in reader.read(running.values()):
                    on_progress(item, count)
            for reference in done:
                item, _ = running.pop(reference)
                yield item, outcome(reference)
    finally:
        if on_progress:
            reader.clear()


def on_given_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with the GPU that Ray gives the task as PyTorch's current one; it leaves no memory of it taken."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        import torch

        if not torch.cuda.is_available():  # as the function will say
            return function(*arguments, **options)
        torch.cuda.set_device(given_gpu())
        try:
            return function(*arguments, **options)
        finally:
            torch.cuda.empty_cache()

    return call


def given_gpu() -> int:
    """Which of the GPUs that this process sees Ray gives to its task."""
    import ray

    given, *_ = map(str, ray.get_gpu_ids())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",").index(given) if visible else int(given)


def outcome(reference: Any) -> Any:
    """What a finished task returned, or the exception that it ended with."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return error.cause if isinstance(getattr(error, "cause", None), Exception) else error
    except ray.exceptions.RayError as error:
        return error
