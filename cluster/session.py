"""A Ray cluster for the length of a `with` block: the one at RAY_ADDRESS, or a local one that ends with the block."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.orphans import end_children_with_me

WORKER_ENVIRONMENT = {
    # Threads of one worker fight those of the next for the same cores, and OpenMP's spin against gloo's.
    "OMP_NUM_THREADS": "1",
}


@contextmanager
def ray_session(num_workers: int, gpus_per_worker: float = 0, start: bool = True) -> Iterator[None]:
    """Connect to Ray, starting a local cluster of `num_workers` CPUs where RAY_ADDRESS is not set.

    Where `start` is false there is nothing to run and the block goes without Ray.
    """
    if not start:
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    end_children_with_me()
    import ray

    options = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": WORKER_ENVIRONMENT},
    }
    if not os.environ.get("RAY_ADDRESS"):
        options |= {
            "address": "local",
            "num_cpus": num_workers,
            "num_gpus": math.ceil(num_workers * gpus_per_worker),
            "include_dashboard": False,
        }
    ray.init(**options)
    try:
        yield
    finally:
        ray.shutdown()


def require_ray():
    """Raises ConnectionError where a local cluster has lost the processes that it cannot do without.

    Ray itself finds out a quarter of a minute later, and then ends this process without a word.
    """
    from ray._private import worker

    node = worker._global_node
    ended = {kind for kind, _ in node.dead_processes()} if node is not None else set()
    if missing := ended & {"raylet", "gcs_server"}:
        raise ConnectionError(
            f"Ray's {' and '.join(sorted(missing))} on this machine ended (killed, or out of memory): "
            "run the same command again to go on"
        )
