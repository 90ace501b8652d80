"""The work of one process of a training.

Ray Train's controller imports this file too, so that nothing here imports torch before a worker
needs it.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.archive.zoo import Zoo


def train_worker(spec: dict[str, Any]) -> list[str | None]:
    """Run in each Ray Train worker; returns the result of `train_jobs`."""
    import torch

    from pipeline.training.process_group import process_group

    torch.set_num_threads(1)
    with process_group(spec["on_gpu"]):
        return train_jobs(spec)


def train_jobs(spec: dict[str, Any]) -> list[str | None]:
    """Run in each process of a process group; returns for each job how it diverged, or None.

    It is not raised as an error, because Ray Train would retry.
    """
    import torch.distributed as dist

    from pipeline.training.config import TrainingConfig
    from pipeline.training.loop import Worker, train_loop

    zoo = same_zoo(spec["zoo"], spec["fingerprint"], spec["trusted"])
    worker = Worker(dist.get_rank(), dist.get_world_size(), spec["on_gpu"])
    return [
        train_loop(
            zoo,
            Path(job["run"]),
            TrainingConfig(**job["training"]),
            job["prepared"],
            worker,
        )
        for job in spec["jobs"]
    ]


def same_zoo(place: str, fingerprint: str, trusted: Collection[str]) -> "Zoo":
    """Open the zoo. Raises InputError if it has changed since training began."""
    from pipeline.archive.zoo import Zoo

    zoo = Zoo.open(place, trusted)
    if zoo.record.fingerprint != fingerprint:
        raise InputError(
            f"zoo {zoo.folder} must be {fingerprint} as it was when training began, found "
            f"{zoo.record.fingerprint}: it has grown; train on the larger zoo into another --out"
        )
    return zoo
