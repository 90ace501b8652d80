"""Cost of orchestration per shard, here and on 1,000 nodes: `dwszoo bench fanout`.

Measured: 10,000 empty fits, with the plan and the signals of 70,000 images, on a local cluster of
all cores, with as many tasks in flight as for its workers and as for 1,000 nodes. Then 10,000 tasks
that sleep and finish as often as shards of `SECONDS` do on 1,000 nodes: each of a few processes
stands for many nodes, and sleeps accordingly less. Modelled: the time until each of 1,000 nodes has
its first shard. Not included: the network, and the load of 1,000 nodes on Ray's head node. For
comparison, the time to fit a shard of `digits`, our shortest, and of `dws-mnist`.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

from cluster.fanout import run_tasks
from cluster.session import ray_session
from flows.recipes import digits, dws_mnist
from pipeline.archive.plan import ShardPlan
from pipeline.config import ZooConfig
from pipeline.progress import Advance
from pipeline.signals import Signals
from pipeline.zoos import kind_of
from pipeline.zoos.build import fit_shard, plan_zoo

NUM_SHARDS = 10_000
NODES = 1_000
"""Nodes, each with one worker."""
PROCESSES = 8
"""Processes that stand for the nodes."""
SECONDS = 6.0
"""Time to fit a shard on a node."""


def fit_nothing(
    config: ZooConfig, folder: Path, signals: Signals, shard: ShardPlan, advance: Advance
):
    for _ in shard.view[::8]:
        advance(8)


def sleep(config: ZooConfig, folder: Path, signals: Signals, shard: ShardPlan, advance: Advance):
    time.sleep(SECONDS * PROCESSES / NODES)
    advance(len(shard.view))


def ignore(shard: ShardPlan, done: int):
    """Ignore progress."""


def seconds_of_a_fit() -> float:
    """Seconds to fit the first full shard of the digits recipe on one core."""
    config = digits().zoo
    with TemporaryDirectory() as folder:
        plan = plan_zoo(config, Path(folder))
        start = time.perf_counter()
        fit_shard(config, Path(folder), plan.signals, plan.shards[0])
        return time.perf_counter() - start


def seconds_of_a_long_fit() -> float:
    """Seconds to fit a full shard of dws-mnist on one core, estimated from fits to noise."""
    config = dws_mnist().zoo
    shard = ShardPlan("train-000000", "train", *2 * [np.arange(config.shard_size)])
    return kind_of(config, images(config.shard_size)).fit_seconds([shard], "cpu", budget=2)


def images(number: int) -> Signals:
    values = np.random.default_rng(0).random((number, 28, 28, 1), np.float32)
    return Signals("noise", values, np.zeros(number, np.int64), ("one",))


@dataclass(frozen=True)
class Cost:
    """The cost of `NUM_SHARDS` shards, without their fits."""

    seconds: float
    driver_seconds: float
    """CPU time of the driver."""
    grown: float
    """Growth of the driver in bytes after the first tenth."""

    def __str__(self) -> str:
        per_shard = 1e3 / NUM_SHARDS
        return (
            f"{per_shard * self.seconds:.2f} ms per shard "
            f"({per_shard * self.driver_seconds:.2f} ms CPU of the driver, "
            f"which grew by {self.grown / 1e6:.0f} MB after the first tenth)"
        )


class Fanout:
    """Run a function on all shards."""

    def __init__(self):
        members = np.arange(digits().zoo.shard_size)
        names = (f"train-{number:06d}" for number in range(NUM_SHARDS))
        self.shards = [ShardPlan(name, "train", members, members) for name in names]
        self.shared = digits().zoo, Path(), images(70_000)

    def cost(self, function: Callable[..., Any], workers: int) -> Cost:
        process = psutil.Process()
        start, start_cpu = time.perf_counter(), time.process_time()
        results = run_tasks(function, self.shards, self.shared, workers, on_progress=ignore)
        for number, (_, result) in enumerate(results, 1):
            assert result is None, result
            if number == NUM_SHARDS // 10:
                before = process.memory_info().rss
        assert number == NUM_SHARDS
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        return Cost(seconds, cpu, process.memory_info().rss - before)

    def start_workers(self, number: int):
        """Start as many processes, so that they have imported what they need."""
        list(run_tasks(sleep, self.shards[: 4 * number], self.shared, number, on_progress=ignore))


def main():
    workers, fanout = os.cpu_count(), Fanout()
    fit, long_fit = seconds_of_a_fit(), seconds_of_a_long_fit()
    with ray_session(workers):
        fanout.start_workers(workers)
        here = fanout.cost(fit_nothing, workers)
        print(f"{NUM_SHARDS:,} fits that do nothing, in {workers} processes")
        print(f"  as for {workers} workers: {here}", flush=True)
        there = fanout.cost(fit_nothing, NODES)
        print(f"  as for {NODES:,} nodes: {there}", flush=True)
    with ray_session(PROCESSES):
        fanout.start_workers(PROCESSES)
        paced = fanout.cost(sleep, NODES)
    each, slept = here.seconds / NUM_SHARDS, NUM_SHARDS * SECONDS / NODES
    gap = (paced.seconds - slept) * PROCESSES / NUM_SHARDS
    first = there.seconds / NUM_SHARDS * NODES
    print(f"shards of digits, {fit:.2f} s of a core, on {workers} workers")
    print(f"  {each / (fit / workers + each):.2%} of the time is orchestration (measured)")
    print(
        f"{NODES:,} nodes: {slept:.0f} s of sleep took {paced.seconds:.1f} s (measured), so that a"
    )
    print(f"  node waits {1e3 * gap:.1f} ms between two shards, and {first:.1f} s for its first")
    for title, shard in (("a test", SECONDS), ("dws-mnist", long_fit)):
        work, lost = NUM_SHARDS / NODES * shard, first + NUM_SHARDS / NODES * gap
        print(
            f"  with shards of {title} ({shard:.0f} s of a core): {work:,.0f} s of work, "
            f"{lost / (work + lost):.2%} orchestration (modelled)"
        )


if __name__ == "__main__":
    main()
