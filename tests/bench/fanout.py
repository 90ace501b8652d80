"""What Ray and our window cost a shard, here and on 1,000 nodes: `dwszoo bench fanout`.

Measured: 10,000 fits that do nothing, with the plan and the signals of 70,000 images shared, on a local cluster of all
cores, in the window of its workers and in that of 1,000 nodes; then 10,000 that sleep, as often as 1,000 nodes would
finish shards of `SECONDS`: each of a few processes stands for many nodes and sleeps the less. Modelled: how long 1,000 nodes
take to get their first shard. Not there: the network, and what 1,000 raylets ask of the head node. Beside it the time that
a shard takes to fit: of the `digits` recipe, the shortest that we ship, and of `dws-mnist`.
"""

import os
import time
from collections.abc import Callable
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
"""Each of one worker."""
PROCESSES = 8
"""They stand for the nodes."""
SECONDS = 6.0
"""Of the shards of a node."""


def fit_nothing(
    config: ZooConfig, folder: Path, signals: Signals, shard: ShardPlan, advance: Advance
):
    for _ in shard.view[::8]:
        advance(8)


def sleep(config: ZooConfig, folder: Path, signals: Signals, shard: ShardPlan, advance: Advance):
    time.sleep(SECONDS * PROCESSES / NODES)
    advance(len(shard.view))


def ignore(shard: ShardPlan, done: int):
    """Progress that nobody needs."""


def seconds_of_a_fit() -> float:
    """Of the first full shard of the digits recipe, on one core."""
    config = digits().zoo
    with TemporaryDirectory() as folder:
        plan = plan_zoo(config, Path(folder))
        start = time.perf_counter()
        fit_shard(config, Path(folder), plan.signals, plan.shards[0])
        return time.perf_counter() - start


def seconds_of_a_long_fit() -> float:
    """Of a full shard of dws-mnist on one core, by some of its members: what is in the images does not matter."""
    config = dws_mnist().zoo
    shard = ShardPlan("train-000000", "train", *2 * [np.arange(config.shard_size)])
    return kind_of(config, images(config.shard_size)).fit_seconds([shard], "cpu", budget=2)


def images(number: int) -> Signals:
    values = np.random.default_rng(0).random((number, 28, 28, 1), np.float32)
    return Signals("noise", values, np.zeros(number, np.int64), ("one",))


class Fanout:
    """Runs a function on all shards, in the driver that Ray calls this process."""

    def __init__(self):
        members = np.arange(digits().zoo.shard_size)
        names = (f"train-{number:06d}" for number in range(NUM_SHARDS))
        self.shards = [ShardPlan(name, "train", members, members) for name in names]
        self.shared = digits().zoo, Path(), images(70_000)

    def seconds(self, function: Callable[..., Any], workers: int) -> tuple[float, float, float]:
        """By the clock and of the driver's cores, and the MB that its memory grew by after the first tenth."""
        process = psutil.Process()
        start, start_cpu = time.perf_counter(), time.process_time()
        results = run_tasks(function, self.shards, self.shared, workers, on_progress=ignore)
        for number, (_, result) in enumerate(results, 1):
            assert result is None, result
            if number == NUM_SHARDS // 10:
                before = process.memory_info().rss
        assert number == NUM_SHARDS
        grown = (process.memory_info().rss - before) / 1e6
        return time.perf_counter() - start, time.process_time() - start_cpu, grown

    def start_workers(self, number: int):
        """As many processes import what they need."""
        list(run_tasks(sleep, self.shards[: 4 * number], self.shared, number, on_progress=ignore))


def main():
    workers, fanout = os.cpu_count(), Fanout()
    fit, long_fit = seconds_of_a_fit(), seconds_of_a_long_fit()
    with ray_session(workers):
        fanout.start_workers(workers)
        here, driver, _ = fanout.seconds(fit_nothing, workers)
        there, driver_there, grown = fanout.seconds(fit_nothing, NODES)
    with ray_session(PROCESSES):
        fanout.start_workers(PROCESSES)
        paced, _, _ = fanout.seconds(sleep, NODES)
    slept = NUM_SHARDS * SECONDS / NODES
    a_shard, first, lost = here / NUM_SHARDS, NODES * there / NUM_SHARDS, paced - slept
    print(
        f"{NUM_SHARDS:,} fits that do nothing, by {workers} processes; by the clock (cores of the driver)"
    )
    print(
        f"  in the window of {workers} workers   {1e3 * a_shard:.2f} ms a shard ({1e3 * driver / NUM_SHARDS:.2f} ms)"
    )
    print(
        f"  in the window of {NODES:,} nodes  {1e3 * there / NUM_SHARDS:.2f} ms a shard "
        f"({1e3 * driver_there / NUM_SHARDS:.2f} ms), the driver grows by {grown:.0f} MB after the first tenth"
    )
    print(
        f"a shard of digits takes {fit:.2f} s of a core, {fit / workers:.2f} s of {workers} workers:"
    )
    print(f"  orchestration is {a_shard / (fit / workers + a_shard):.2%} of the time, measured")
    print(f"{NODES:,} nodes and shards of {SECONDS:g} s, which {PROCESSES} processes stand for:")
    print(f"  {slept:.0f} s of work took {paced:.1f} s: {lost / paced:.2%} of the time, measured")
    print(f"{NODES:,} nodes and shards of dws-mnist, {long_fit:.0f} s of a core each:")
    work = NUM_SHARDS * long_fit / NODES
    print(
        f"  {work:,.0f} s of work, {first:.1f} s until each node has its first shard, {lost:.1f} s lost as above: "
        f"{(first + lost) / (work + first + lost):.2%} of the time, modelled"
    )


if __name__ == "__main__":
    main()
