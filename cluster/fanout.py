"""Many independent tasks on a Ray cluster, a bounded number at a time."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any, TypeVar

from cluster.nodes import living_nodes
from cluster.progress import SECONDS, ProgressReader, ProgressReporter
from cluster.session import require_ray

Item = TypeVar("Item")

WINDOW = 2
"""Tasks submitted for each that can run: enough that no worker waits, few enough that the scheduler stays fast."""
RETRIES = 3
NODE_SECONDS = 5.0
"""Least time between two looks at which nodes are alive."""
KEPT = {
    "max_calls": 0,
    "runtime_env": {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}},
}
"""Of tasks on GPUs: processes are used again, so that imports, the CUDA context and compiled kernels are paid for once. The
next task of a process may be given another GPU, so it sees all of them."""


@dataclass(frozen=True)
class Task:
    """An item under way."""

    item: Any
    reporter: ProgressReporter
    failures: int


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
    whatever node has room, and does not stop the others. Where a node dies, what may have been there is submitted again:
    of one whose power fails Ray by itself would wait for minutes.

    Left early, tasks that are under way end with the session: to cancel them while others are being handed out makes Ray
    end this process, by a check of its own.

    With `on_progress`, the function takes `advance` too, to call with how much it has done since the last call; and
    `on_progress(item, done)` is called for each running item that has advanced: about twice per
    second, less often with more than 25 workers. `on_poll` is called at least twice per second; an
    error it raises ends the fan-out.
    """
    import ray

    needs: dict[str, Any] = {"num_cpus": 1, "max_retries": 0}
    if gpus_per_worker:
        function, needs = on_given_gpu(function), needs | {"num_gpus": gpus_per_worker} | KEPT
    remote = ray.remote(**needs)(announced(function, on_progress is not None))
    references = [ray.put(value) for value in shared]
    window = num_workers * WINDOW
    waiting, reader = iter(items), ProgressReader(window)
    running: dict[Any, Task] = {}
    nodes = NodeWatch()

    def submit(item: Item, failures: int = 0, done: int = 0):
        reporter = reader.reporter(done)
        task = remote.remote(reporter, *references, item, **options)
        running[task] = Task(item, reporter, failures)

    try:
        while True:
            for item in islice(waiting, window - len(running)):
                submit(item)
            if not running:
                return
            ray.wait(list(running), num_returns=1, timeout=SECONDS)
            done, _ = ray.wait(list(running), num_returns=len(running), timeout=0)  # all by now
            require_ray()
            if on_poll:
                on_poll()
            if on_progress:
                under_way = ((task.item, task.reporter) for task in running.values())
                for item, count in reader.read(under_way):
                    on_progress(item, count)
            for reference in done:
                task, result = running.pop(reference), outcome(reference)
                if isinstance(result, Exception) and task.failures < RETRIES:
                    submit(task.item, task.failures + 1, task.reporter.done)
                else:
                    yield task.item, result
            if nodes.have_died():
                for reference in [one for one in running if is_lost(running[one], nodes.living)]:
                    task = running.pop(reference)
                    task.reporter.give_up()
                    submit(task.item, task.failures, task.reporter.done)
    finally:
        reader.clear()


def is_lost(task: Task, living: Collection[str]) -> bool:
    """Whether it has not begun on a living node, as far as is known: it may be on its way to one that has died."""
    return task.reporter.node() not in living


def announced(function: Callable[..., Any], takes_advance: bool) -> Callable[..., Any]:
    """The function, which first says on which node it is called, and does nothing where it was given up."""

    @wraps(function)
    def call(reporter: ProgressReporter, *arguments: Any, **options: Any) -> Any:
        extra = {"advance": reporter} if takes_advance else {}
        return function(*arguments, **options, **extra) if reporter.begin() else None

    del call.__wrapped__  # which has another signature
    return call


class NodeWatch:
    """Looks now and then whether nodes have died."""

    def __init__(self):
        self.living, self.due = set(living_nodes()), time.monotonic() + NODE_SECONDS

    def have_died(self) -> bool:
        """Whether any have since the last look; False where it is too early for another one."""
        if time.monotonic() < self.due:
            return False
        before, self.living = self.living, set(living_nodes())
        self.due = time.monotonic() + NODE_SECONDS
        return bool(before - self.living)


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
