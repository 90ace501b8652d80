"""Many independent tasks on a Ray cluster, a bounded number at a time."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any, TypeVar

from cluster.essential import require_ray
from cluster.nodes import living_nodes
from cluster.progress import SECONDS, ProgressReader, ProgressReporter

Item = TypeVar("Item")

WINDOW = 2
"""Tasks submitted per worker: enough to keep workers busy, few enough to keep the scheduler
fast."""
RETRIES = 3
NODE_SECONDS = 5.0
"""Minimum time between two checks of which nodes are alive."""
KEPT = {
    "max_calls": 0,
    "runtime_env": {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}},
}
"""Options of tasks on GPUs. Processes are reused, so that imports, the CUDA context and compiled
kernels are paid for once. As the next task of a process may get another GPU, it sees all of
them."""


@dataclass(frozen=True)
class Task:
    """A submitted item."""

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
    """`(item, function(*shared, item, **options))` for each item, as they finish.

    If a task raises an error or its worker dies, it is retried up to three times on any node with
    room, and the other tasks continue; after that its exception takes the place of the result. If a
    node dies, tasks that may have been there are resubmitted: Ray itself would wait for minutes
    after a power failure. `shared` is put into the object store once.

    If the iteration ends early, running tasks end with the session: cancelling them while others
    are being submitted trips a check of Ray that ends this process.

    With `on_progress`, the function takes `advance` too, to call with how much it has done since
    the last call; and `on_progress(item, done)` is called for each running item that has advanced:
    about twice per second, less often with more than 25 workers. `on_poll` is called at least twice
    per second; an error it raises ends the fan-out.
    """
    call = remote_call(function, shared, options, gpus_per_worker, on_progress is not None)
    window = num_workers * WINDOW
    waiting, fan_out = iter(items), FanOut(call, ProgressReader(window))
    try:
        while True:
            for item in islice(waiting, window - len(fan_out.running)):
                fan_out.submit(item)
            if not fan_out.running:
                return
            done = fan_out.wait()
            require_ray()
            if on_poll:
                on_poll()
            if on_progress:
                fan_out.report(on_progress)
            yield from fan_out.results(done)
            fan_out.resubmit_lost()
    finally:
        fan_out.reader.clear()


def remote_call(
    function: Callable[..., Any],
    shared: tuple[Any, ...],
    options: dict[str, Any],
    gpus_per_worker: float,
    takes_advance: bool,
) -> Callable[[ProgressReporter, Any], Any]:
    """A function that submits one item to Ray, with its reporter, and returns a reference."""
    import ray

    needs: dict[str, Any] = {"num_cpus": 1, "max_retries": 0}
    if gpus_per_worker:
        function, needs = on_given_gpu(function), needs | {"num_gpus": gpus_per_worker} | KEPT
    remote = ray.remote(**needs)(announced(function, takes_advance))
    references = [ray.put(value) for value in shared]
    return lambda reporter, item: remote.remote(reporter, *references, item, **options)


class FanOut:
    """The running tasks of `run_tasks`."""

    def __init__(self, call: Callable[[ProgressReporter, Any], Any], reader: ProgressReader):
        self.call, self.reader, self.nodes = call, reader, NodeWatch()
        self.running: dict[Any, Task] = {}

    def submit(self, item: Any, failures: int = 0, done: int = 0):
        reporter = self.reader.reporter(done)
        self.running[self.call(reporter, item)] = Task(item, reporter, failures)

    def wait(self) -> list[Any]:
        """All tasks that have finished, once one has or `SECONDS` have passed."""
        import ray

        ray.wait(list(self.running), num_returns=1, timeout=SECONDS)
        done, _ = ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
        return done

    def report(self, on_progress: Callable[[Any, int], None]):
        under_way = ((task.item, task.reporter) for task in self.running.values())
        for item, count in self.reader.read(under_way):
            on_progress(item, count)

    def results(self, done: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Items and results of finished tasks, except those that are tried again."""
        for reference in done:
            task, result = self.running.pop(reference), outcome(reference)
            if isinstance(result, Exception) and task.failures < RETRIES:
                self.submit(task.item, task.failures + 1, task.reporter.done)
            else:
                yield task.item, result

    def resubmit_lost(self):
        """If nodes have died, give up tasks that may have been there, and submit them again."""
        if not self.nodes.have_died():
            return
        for reference, task in list(self.running.items()):
            if is_lost(task, self.nodes.living):
                del self.running[reference]
                task.reporter.give_up()
                self.submit(task.item, task.failures, task.reporter.done)


def is_lost(task: Task, living: Collection[str]) -> bool:
    """Whether a task is not known to have begun on a live node, so that it may be on a dead one."""
    return task.reporter.node() not in living


def announced(function: Callable[..., Any], takes_advance: bool) -> Callable[..., Any]:
    """The function, which first reports its node, and does nothing if the task was given up."""

    @wraps(function)
    def call(reporter: ProgressReporter, *arguments: Any, **options: Any) -> Any:
        extra = {"advance": reporter} if takes_advance else {}
        return function(*arguments, **options, **extra) if reporter.begin() else None

    del call.__wrapped__  # which has another signature
    return call


class NodeWatch:
    """Checks now and then whether nodes have died."""

    def __init__(self):
        self.living, self.due = set(living_nodes()), time.monotonic() + NODE_SECONDS

    def have_died(self) -> bool:
        """Whether any have died since the last check; False if that was recent."""
        if time.monotonic() < self.due:
            return False
        before, self.living = self.living, set(living_nodes())
        self.due = time.monotonic() + NODE_SECONDS
        return bool(before - self.living)


def on_given_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, called with the task's GPU as PyTorch's current device; frees cached memory."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        import torch

        if not torch.cuda.is_available():  # the function will report this
            return function(*arguments, **options)
        torch.cuda.set_device(given_gpu())
        try:
            return function(*arguments, **options)
        finally:
            torch.cuda.empty_cache()

    return call


def given_gpu() -> int:
    """The index, among the GPUs that this process sees, of the one that Ray gives to its task."""
    import ray

    given, *_ = map(str, ray.get_gpu_ids())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",").index(given) if visible else int(given)


def outcome(reference: Any) -> Any:
    """The result of a finished task, or the exception that it raised."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return error.cause if isinstance(getattr(error, "cause", None), Exception) else error
    except ray.exceptions.RayError as error:
        return error
