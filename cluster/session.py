"""A Ray cluster for the length of a `with` block: the one at RAY_ADDRESS, or a local one that ends with the block."""

import logging
import math
import os
import shlex
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from cluster.orphans import end_children_with_me
from cluster.scratch import scratch_folder

WORKER_ENVIRONMENT = {
    # Threads of one worker fight those of the next for the same cores, and OpenMP's spin against gloo's.
    "OMP_NUM_THREADS": "1",
    # What a worker runs in processes of its own does not import from the folder that it happens to be in.
    "PYTHONSAFEPATH": "1",
}
LOOPBACK = "127.0.0.1"


def is_local() -> bool:
    """Whether workers run on this machine, in a cluster that a session starts."""
    return os.environ.get("RAY_ADDRESS", "") in ("", "local")


@contextmanager
def ray_session(num_workers: int, gpus_per_worker: float = 0, start: bool = True) -> Iterator[None]:
    """Connect to Ray, starting a local cluster of `num_workers` CPUs where RAY_ADDRESS is not set.

    Where `start` is false there is nothing to run and the block goes without Ray.
    """
    if not start:
        yield
        return
    end_children_with_me()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    num_gpus = math.ceil(num_workers * gpus_per_worker)
    if is_local():
        with scratch_folder() as folder, connected(**local_cluster(num_workers, num_gpus, folder)):
            yield
    else:
        with connected():
            yield


def local_cluster(num_cpus: int, num_gpus: int, folder: os.PathLike) -> dict[str, Any]:
    """Options of ray.init that start a cluster which only this machine and this user can reach."""
    # Read when Ray is imported: its own address is the loopback interface's, and all that it starts listens there alone.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex)  # none in a file at home
    interface = loopback_interface()
    return {
        "address": "local",
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "include_dashboard": False,
        "_temp_dir": str(folder),
        "runtime_env": {
            # Ray gives this to a shell.
            "py_executable": shlex.quote(sys.executable),
            "env_vars": WORKER_ENVIRONMENT
            | {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface},
        },
    }


def loopback_interface() -> str:
    """Its name: lo on Linux, lo0 on macOS."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


@contextmanager
def connected(**options: Any) -> Iterator[None]:
    import ray

    from cluster.driver_path import DriverPath

    options = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": WORKER_ENVIRONMENT},
        "job_config": DriverPath(),
    } | options
    connection, end = Future(), threading.Event()
    # Ray's processes end with the thread that started them. In a thread of its own, Ray leaves the handlers of signals
    # alone, and whoever waits for it can be interrupted.
    threading.Thread(target=connect, args=(options, connection, end), daemon=True).start()
    try:
        connection.result()
        yield
    finally:
        ray.shutdown()
        end.set()


def connect(options: dict[str, Any], connection: Future, end: threading.Event):
    import ray

    try:
        connection.set_result(ray.init(**options))
    except BaseException as error:  # noqa: BLE001 - raised again where the connection is waited for
        connection.set_exception(error)
    end.wait()


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
