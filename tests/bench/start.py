"""What starting a process costs a small shard where workers have GPUs: `dwszoo bench start`.

All shards of the `digits` recipe, fitted on CPUs by tasks that Ray gives a GPU which is not there: with a process for each,
as Ray has it for such tasks, and with processes that are kept, as ours are. On a GPU its context and the compilation of
kernels, which a process pays for as well, come on top.
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
from pipeline.zoos.build import fit_shard, plan_zoo

WORKERS = 2


def seconds_of_fit(
    config: ZooConfig, folder: Path, signals: Signals, shard: ShardPlan
) -> tuple[float, int]:
    """And in which process."""
    start = time.perf_counter()
    fit_shard(config, folder, signals, shard)
    return time.perf_counter() - start, os.getpid()


def measure(title: str):
    """A line: of the time of all workers, how much is not spent in `fit_shard`."""
    with TemporaryDirectory() as folder:
        plan, start = plan_zoo(digits().zoo, Path(folder)), time.perf_counter()
        shared = plan.record.config, Path(folder), plan.signals
        results = fanout.run_tasks(seconds_of_fit, plan.shards, shared, WORKERS, gpus_per_worker=1)
        fits, processes = zip(*(result for _, result in results), strict=True)
        total = WORKERS * (time.perf_counter() - start)
    starting = total - sum(fits)
    print(
        f"{title:<22} {len(fits)} shards in {len({*processes})} processes: a shard takes {total / len(fits):.2f} s of a "
        f"worker, {starting / len(fits):.2f} s of them to start ({starting / total:.0%})",
        flush=True,
    )


def main():
    plan_and_compile = digits().zoo
    with TemporaryDirectory() as folder:
        plan = plan_zoo(plan_and_compile, Path(folder))
        plan.kind.prepare("cpu")
    node = {"num_cpus": WORKERS, "num_gpus": WORKERS, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        os.environ["RAY_ADDRESS"] = cluster.address
        with ray_session(WORKERS, 1):
            with patch.object(fanout, "KEPT", {}):
                measure("a process for each")
            measure("processes are kept")
            measure("the same, once started")
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
