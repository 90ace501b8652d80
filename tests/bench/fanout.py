"""What Ray and our window cost a shard: `dwszoo bench fanout`.

10,000 tasks that do nothing, with the plan and the signals of 70,000 images shared, on a local cluster of all cores;
beside it the time that a shard of the `digits` recipe takes to fit, the shortest that we ship.
"""

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cluster.fanout import run_tasks
from cluster.session import ray_session
from flows.recipes import digits
from pipeline.archive.plan import ShardPlan
from pipeline.config import ZooConfig
from pipeline.progress import Advance
from pipeline.signals import Signals
from pipeline.zoos.build import fit_shard, plan_zoo

NUM_SHARDS = 10_000


def nothing(
    config: ZooConfig, folder: Path, signals: Signals, shard: ShardPlan, advance: Advance
) -> str:
    for _ in shard.view[::8]:
        advance(8)
    return shard.name


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


def seconds_of_nothing(workers: int) -> float:
    signals = Signals(
        "none", np.zeros((70_000, 28, 28, 1), np.float32), np.zeros(70_000, np.int64), ("one",)
    )
    members = np.arange(digits().zoo.shard_size)
    shards = [
        ShardPlan(f"train-{number:06d}", "train", members, members) for number in range(NUM_SHARDS)
    ]
    shared = (digits().zoo, Path(), signals)
    with ray_session(workers):
        list(
            run_tasks(nothing, shards[:100], shared, workers, on_progress=ignore)
        )  # starts the workers
        start = time.perf_counter()
        done = {name for _, name in run_tasks(nothing, shards, shared, workers, on_progress=ignore)}
        seconds = time.perf_counter() - start
    assert len(done) == NUM_SHARDS
    return seconds


if __name__ == "__main__":
    workers = os.cpu_count()
    fit, rest = seconds_of_a_fit(), seconds_of_nothing(workers)
    print(
        f"{NUM_SHARDS:,} tasks in {rest:.1f} s on {workers} workers: {1e3 * rest / NUM_SHARDS:.2f} ms a shard"
    )
    print(
        f"fitting a shard of digits takes {fit:.2f} s on one core, {1e3 * fit / workers:.0f} ms of {workers} workers"
    )
    print(
        f"orchestration is {rest / NUM_SHARDS / (fit / workers + rest / NUM_SHARDS):.2%} of the time"
    )
