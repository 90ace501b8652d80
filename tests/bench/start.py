"""The share of a small shard's time that is start-up, with workers on GPUs: `dwszoo bench start`.

Shards of the `digits` recipe, fitted on CPUs by tasks to which Ray assigns a GPU that does not
exist: with one process per shard, Ray's default for such tasks, and with processes that are kept,
as in `run_tasks`. On a real GPU, the context and the compilation of kernels add to the start.
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

WORKERS, NUM_SHARDS = 2, 8


def timed_fit(
    config: ZooConfig, folder: Path, signals: Signals, shard: ShardPlan
) -> tuple[float, int]:
    """Seconds of a fit, and the process that it ran in."""
    start = time.perf_counter()
    fit_shard(config, folder, signals, shard)
    return time.perf_counter() - start, os.getpid()


def measure(title: str, plan: ZooPlan, folder: Path):
    """Print how much of the workers' time was not spent in `fit_shard`."""
    start, shared = time.perf_counter(), (plan.record.config, folder, plan.signals)
    shards = plan.shards[:NUM_SHARDS]
    results = fanout.run_tasks(timed_fit, shards, shared, WORKERS, gpus_per_worker=1)
    fits, processes = zip(*(result for _, result in results), strict=True)
    total, fit = WORKERS * (time.perf_counter() - start), sum(fits)
    print(
        f"{title:<21} {len({*processes})} processes: {total / NUM_SHARDS:.2f} s of a worker per "
        f"shard, {(total - fit) / NUM_SHARDS:.2f} s of it start-up ({1 - fit / total:.0%})",
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
            print(f"{NUM_SHARDS} shards of digits on {WORKERS} workers")
            with patch.object(fanout, "KEPT", {}):
                measure("one process per shard", plan, Path(folder))
            measure("processes are kept", plan, Path(folder))
            measure("... once started", plan, Path(folder))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
