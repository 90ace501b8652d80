"""Worlds of processes that train together, several at once, without Ray."""

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from unittest.mock import patch

SECONDS = 200
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


class ProcessError(Exception):
    pass


@patch.dict(os.environ, ENVIRONMENT)
def in_worlds(function: Callable, sizes: Sequence[int], folder: Path, *arguments: Any):
    """Call `function(worker, barrier, *arguments)` in each process of worlds of these sizes.

    Raises ProcessError if one of them fails or takes too long.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepspeed", "pipeline.training.loop"])
    barrier = context.Barrier(sum(sizes), timeout=SECONDS)
    processes = [
        context.Process(
            target=run, args=(function, rank, size, folder, barrier, arguments, dict(os.environ))
        )
        for size in sizes
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    try:
        while running:
            ended = wait(list(running), SECONDS)
            if not ended or any(running.pop(sentinel).exitcode for sentinel in ended):
                raise ProcessError
    finally:
        for process in processes:
            process.kill()


def run(
    function,
    rank: int,
    size: int,
    folder: Path,
    barrier,
    arguments: Sequence[Any],
    environment: dict[str, str],
):
    import torch
    import torch.distributed as dist

    from pipeline.training.loop import Worker

    torch.set_num_threads(1)
    os.environ |= environment | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
    }
    meeting = f"file://{folder}/world-{size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    function(Worker(rank, size, on_gpu=False), barrier, *arguments)
    dist.destroy_process_group()


@contextmanager
def without_ray() -> Iterator[None]:
    """Let commands in this process fit and train without Ray, whose start takes longer than either.

    Fits run in this process; training runs the same loop and engine in processes of its own.
    """

    def fit(function, shards, shared, *_, device):
        return ((shard, function(*shared, shard, device)) for shard in shards)

    def launch(zoo, jobs, resources) -> list[str | None]:
        from pipeline.training.launch import spec_of

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "diverged.json"
            in_worlds(work, [resources.workers], Path(folder), spec_of(zoo, jobs, False), file)
            return json.loads(file.read_text())

    with (
        patch("pipeline.training.launch.launch_workers", launch),
        patch("flows.stages.build.run_tasks", fit),
        patch("flows.stages.session.ray_session", lambda *_, **__: nullcontext()),
    ):
        yield


def work(worker, barrier, spec, file: Path):
    from pipeline.training.worker import train_jobs

    diverged = train_jobs(spec)
    if worker.rank == 0:
        file.write_text(json.dumps(diverged))
