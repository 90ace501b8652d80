"""Ray for a `with` block: the cluster at RAY_ADDRESS, or a local one that ends with the block."""

import logging
import math
import os
import shlex
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from cluster.address import find_cluster, num_groups, require_resources
from cluster.essential import require_ray, watched_raylet
from cluster.nodes import require_alike
from cluster.orphans import end_children_with_me
from cluster.processes import end_all, marked, writers
from cluster.scratch import scratch_folder

WORKER_ENVIRONMENT = {
    # Otherwise threads of workers compete for the same cores, and OpenMP's spin against gloo's.
    "OMP_NUM_THREADS": "1",
    # Subprocesses of a worker do not import from the current folder.
    "PYTHONSAFEPATH": "1",
}
LOOPBACK_SECONDS = 5.0
this_thread = threading.local()
CLUSTER = "DWSZOO_CLUSTER"
"""Environment variable of a local cluster's processes with the cluster's folder."""


def is_local() -> bool:
    """Whether workers run on this machine, in a cluster that a session starts."""
    return os.environ.get("RAY_ADDRESS", "") in ("", "local")


@contextmanager
def ray_session(
    num_workers: int,
    gpus_per_worker: float = 0,
    start: bool = True,
    fewest: int | None = None,
    folder: Path | None = None,
    groups: int = 1,
) -> Iterator[None]:
    """Connect to Ray; if RAY_ADDRESS is not set, start a local cluster of `num_workers` CPUs.

    A running cluster must have room for `fewest` of the workers (None: for all), and all of its
    nodes must have this code and see `folder`, where work is written. A local one has room for all
    `groups` of workers, if the machine has the cores. If `start` is false, the block runs without
    Ray.

    Raises RequestError if RAY_ADDRESS is not an address or resources are missing, and
    ConnectionError if no cluster answers or admits us. Ray's own errors in the block are raised as
    ConnectionError too.
    """
    if not start:
        yield
        return
    end_children_with_me()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Read when Ray is imported: a thread that outlives the session must not start another cluster.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    # What Ray takes for its raylet: a driver without one ends silently if its parent is process 1.
    os.environ["RAY_RAYLET_PID"] = str(os.getpid())
    if is_local():
        cluster = local_cluster(num_workers, gpus_per_worker, groups)
    else:
        cluster = running_cluster(fewest or num_workers, gpus_per_worker, folder)
    with cluster:
        yield


@contextmanager
def sentences() -> Iterator[None]:
    """Raises Ray's errors in the block as ConnectionError."""
    from ray.exceptions import RayError  # importing it reads the settings of a session

    try:
        yield
    except RayError as error:
        raise ConnectionError(
            f"Ray failed ({first_line(error)}): run the same command again to continue"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of a message; Ray's advice comes after it."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextmanager
def running_cluster(
    num_workers: int, gpus_per_worker: float, folder: Path | None
) -> Iterator[None]:
    """Connect to the cluster at RAY_ADDRESS; an autoscaling one counts at its maximum size."""
    address = find_cluster(os.environ["RAY_ADDRESS"])
    with connected(address=address):
        import ray
        from ray._private.state import state

        found = state.get_max_resources_from_cluster_config() or ray.cluster_resources()
        require_resources(f"the Ray cluster at {address}", num_workers, gpus_per_worker, **found)
        require_alike(folder)
        yield


@contextmanager
def local_cluster(num_workers: int, gpus_per_worker: float, groups: int) -> Iterator[None]:
    """Start a cluster that only this user can reach; none of its processes and files outlives the
    block."""
    with scratch_folder() as folder:
        os.environ[CLUSTER] = str(folder)
        # Read when Ray is imported: its address is then that of the loopback interface, and
        # everything it starts listens there.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        # Ray Train's process that watches for preempted nodes, which this machine is not.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # Workers that Ray starts before it knows their environment, and never uses.
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex)  # or Ray keeps one at home
        from ray._private.accelerators import NvidiaGPUAcceleratorManager as Nvidia

        num_gpus = Nvidia.get_current_node_num_accelerators()
        require_resources(
            "this machine", num_workers, gpus_per_worker, CPU=num_workers, GPU=num_gpus
        )
        cores = len(os.sched_getaffinity(0))
        groups = num_groups(groups, num_workers, gpus_per_worker, CPU=cores, GPU=num_gpus)
        os.environ.pop("RAY_OVERRIDE_RESOURCES", None)  # set on a node of another cluster
        interface = loopback_interface()
        sockets = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
        # For the caches of libraries, such as PyTorch's inductor.
        temporary = {"TMPDIR": str(folder)}
        try:
            with connected(
                address="local",
                num_cpus=groups * num_workers,
                num_gpus=math.ceil(groups * num_workers * gpus_per_worker),
                include_dashboard=False,
                _temp_dir=str(folder / "ray"),  # Ray makes this folder accessible to everybody
                runtime_env={
                    "py_executable": shlex.quote(sys.executable),  # passed through a shell
                    "env_vars": WORKER_ENVIRONMENT | sockets | temporary,
                },
            ):
                yield
        finally:
            end_all(lambda: {*marked(CLUSTER, str(folder)), *writers(folder)})


def loopback_interface() -> str:
    """The name of the loopback interface: lo on Linux, lo0 on macOS.

    Raises ConnectionError if it does not work.
    """
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), LOOPBACK_SECONDS).close()
    except OSError as error:
        raise ConnectionError(
            f"the loopback interface of this machine does not work ({error.strerror or error}), "
            "but workers communicate over it: bring it up, for instance with `ip link set lo up`"
        ) from error
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


@contextmanager
def connected(**options: Any) -> Iterator[None]:
    import ray

    from cluster.driver_path import DriverPath

    options = {
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,
        "runtime_env": {"env_vars": WORKER_ENVIRONMENT},
        "job_config": DriverPath(),
    } | options
    connection, end = Future[Any](), threading.Event()
    # Ray's processes end with the thread that started them; waiting for it can be interrupted.
    threading.Thread(target=connect, args=(options, connection, end), daemon=True).start()
    try:
        while not connection.done():
            keep_handler(signal.SIGTERM)
            require_ray()
            wait([connection], 0.01)
        require_started(connection)
        keep_handler(signal.SIGTERM)
        try:
            with watched_raylet(), sentences():
                yield
        finally:
            ray.shutdown()
            keep_handler(signal.SIGTERM)
    finally:
        end.set()


def require_started(connection: Future):
    """Raises ConnectionError if Ray could not start or connect; Ray raises errors of many kinds."""
    try:
        connection.result()
    except Exception as error:
        raise ConnectionError(
            f"Ray cannot start on this machine, or connect to its cluster ({first_line(error)})"
        ) from error


def connect(options: dict[str, Any], connection: Future, end: threading.Event):
    import ray
    from ray._private import worker

    worker._worker_logs_enabled = False  # among them those of a raylet that was killed
    leave_groups_at_fork()
    this_thread.starts_ray = True
    try:
        connection.set_result(ray.init(**options))
    except BaseException as error:  # noqa: BLE001 - raised again by `require_started`
        connection.set_exception(error)
    end.wait()


@cache
def leave_groups_at_fork():
    """From now on, processes started by the thread that starts Ray get their own process groups.

    A signal of a terminal or a batch system to the group of this process then reaches only this
    one, which ends Ray's. Otherwise Ray, finding them gone, would silently end this process.
    """
    os.register_at_fork(after_in_child=leave_group)


def leave_group():
    if getattr(this_thread, "starts_ray", False):
        os.setpgrp()


def keep_handler(signum: int):
    """Reinstall Python's handler.

    Ray replaces it by one that aborts the process and, when it is shut down, by the system's.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signum, signal.getsignal(signum))
