"""The share of a small shard's time that is start-up, with workers on GPUs: `dwszoo bench start`.

Shards of the `digits` recipe, fitted on CPUs by tasks to which Ray assigns a GPU that does not
exist: with one process per shard, Ray's default for such tasks, and with processes that are kept,
as in `run_tasks`. Measures CPU time, which does not depend on other work on the machine. On a real
GPU, the context and the compilation of kernels add to the start.
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
ended = 0.0
"""CPU time at which this process finished its last fit."""


def timed_fit(
    config: ZooConfig, folder: Path, signals: Signals, shard: ShardPlan
) -> tuple[float, float, int]:
    """CPU seconds before and during a fit, and the process."""
    global ended
    before, start = ended, time.process_time()
    fit_shard(config, folder, signals, shard)
    ended = time.process_time()
    return start - before, ended - start, os.getpid()


def measure(title: str, plan: ZooPlan, folder: Path):
    """Print the CPU time that a shard takes to start and to fit."""
    shared, shards = (plan.record.config, folder, plan.signals), plan.shards[:NUM_SHARDS]
    results = fanout.run_tasks(timed_fit, shards, shared, WORKERS, gpus_per_worker=1)
    starts, fits, processes = zip(*(result for _, result in results), strict=True)
    start, fit = sum(starts) / NUM_SHARDS, sum(fits) / NUM_SHARDS
    print(
        f"{title:<21} {len({*processes})} processes: {start:.2f} s to start and {fit:.2f} s to fit "
        f"per shard, {start / (start + fit):.0%} of the time is start-up",
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
            measure("processes are kept", plan, Path(folder))
            measure("... once started", plan, Path(folder))
            with patch.object(fanout, "KEPT", {}):
                measure("one process per shard", plan, Path(folder))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
