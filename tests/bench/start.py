"""The share of a small shard's time that is start-up, with workers on GPUs: `dwszoo bench start`.

Shards of the `digits` recipe, fitted on CPUs by tasks to which Ray assigns a GPU that does not
exist: with one process per shard, Ray's default for such tasks, and with processes that are kept,
as in `run_tasks`. CPU time of the processes, which other work on the machine does not change. On a
real GPU, the context and the compilation of kernels add to the start.
"""

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from ray.cluster_utils import Cluster

from cluster import fanout
from cluster.session import ray_session
from flows.recipes import digits
from pipeline.archive.plan import ShardPlan
from pipeline.config import ZooConfig
from pipeline.signals import Signals
from pipeline.zoos.build import ZooPlan, fit_shard, plan_zoo

WORKERS, NUM_SHARDS = 2, 6


def timed_fit(
    config: ZooConfig, folder: Path, signals: Signals, shard: ShardPlan
) -> tuple[int, float, float]:
    """The process of a fit, and its CPU time in seconds when the fit starts and ends."""
    start = time.process_time()
    fit_shard(config, folder, signals, shard)
    return os.getpid(), start, time.process_time()


def measure(title: str, plan: ZooPlan, folder: Path, ended: dict[int, float]):
    """Print how much of the time of its processes a shard takes to start and to fit.

    `ended` is the CPU time of each process at the end of its last fit, and is brought up to date.
    """
    shared, shards = (plan.record.config, folder, plan.signals), plan.shards[:NUM_SHARDS]
    results = fanout.run_tasks(timed_fit, shards, shared, WORKERS, gpus_per_worker=1)
    fits = sorted(result for _, result in results)
    starting = fitting = 0.0
    for process, start, end in fits:
        starting += start - ended.get(process, 0.0)
        fitting += end - start
        ended[process] = end
    number = len({process for process, _, _ in fits})
    print(
        f"{title:<21} {number} processes: {starting / NUM_SHARDS:.2f} s to start and "
        f"{fitting / NUM_SHARDS:.2f} s to fit per shard, {starting / (starting + fitting):.0%} "
        "of the time is start-up",
        flush=True,
    )


def main():
    node = {"num_cpus": WORKERS, "num_gpus": WORKERS, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        os.environ["RAY_ADDRESS"] = cluster.address
        with TemporaryDirectory() as folder, ray_session(WORKERS, 1):
            plan = plan_zoo(digits().zoo, Path(folder))
            plan.kind.prepare("cpu")
            print(f"{NUM_SHARDS} shards of digits on {WORKERS} workers, CPU time")
            ended: dict[int, float] = {}
            measure("processes are kept", plan, Path(folder), ended)
            measure("... once started", plan, Path(folder), ended)
            with patch.object(fanout, "KEPT", {}):
                measure("one process per shard", plan, Path(folder), ended)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
