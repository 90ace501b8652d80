"""Launches the training loop with Ray Train."""

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.archive.zoo import Zoo
from pipeline.config import ResourcesConfig
from pipeline.errors import ArchiveError, DivergenceError, InputError, WorkError, reason
from pipeline.training.checkpoint import num_epochs, read_history
from pipeline.training.checkpoint_folders import latest
from pipeline.training.config import FinetuneConfig, TrainingConfig
from pipeline.training.loader import Feed
from pipeline.training.worker import train_worker

POLL_SECONDS = 0.5
HEALTH_CHECK_INTERVAL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
"""How often Ray Train checks whether its workers are done; its default is every two seconds."""
END_SECONDS = 5.0
"""How long to wait for the threads of workers that were ended."""
MAX_FAILURES = 1
"""How often in a row training is restarted after a failure without a new checkpoint."""
RESIZE_SECONDS = 60.0
"""How often to check whether the cluster has room for more workers."""
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
"""How long Ray Train waits for resources that it believes are free: it learns of a lost node up to
20 seconds late."""
START_SECONDS = 5.0


class WorkersError(WorkError):
    """Workers failed but Ray did not, so new workers can continue."""


def is_trained(run: Path, config: TrainingConfig | FinetuneConfig) -> bool:
    return num_epochs(run) >= config.epochs


def check_batches(feed: Feed, config: TrainingConfig, num_workers: int):
    """Raises InputError if a batch has too few members for all workers, or the train split has too
    few to fill a batch."""
    if config.batch_size % feed.group or config.batch_size < num_workers * feed.group:
        views = (
            f" times the {feed.group} views of a signal, and a multiple of those"
            if feed.group > 1
            else ""
        )
        raise InputError(
            f"training.batch_size must be at least resources.workers ({num_workers}){views}, got "
            f"{config.batch_size}"
        )
    if not feed.num_batches(config.batch_size):
        views = f" that have {feed.group} views" if feed.group > 1 else ""
        raise InputError(
            f"training.batch_size must be at most the {feed.num_members} members of the train "
            f"split{views}, got {config.batch_size}"
        )


@dataclass(frozen=True)
class Job:
    """A model to train."""

    title: str
    run: Path
    """Its folder."""
    training: TrainingConfig
    prepared: dict[str, Any]
    """What the task computed from the train split."""
    members_per_epoch: int

    def as_json(self) -> dict[str, Any]:
        return {
            "run": str(self.run.resolve()),
            "training": self.training.model_dump(mode="json"),
            "prepared": self.prepared,
        }


def launch_training(
    zoo: Zoo,
    groups: Sequence[Sequence[Job]],
    resources: ResourcesConfig,
    on_progress: Callable[[], None],
):
    """Train models, each from its newest checkpoint, with one process per worker.

    Each group of jobs has its own workers, which train its models one after another, at the same
    time as the other groups. Needs a Ray session. `on_progress` is called a few times per second;
    an error raised by it or by a group ends the training of all groups, and the session. Raises
    DivergenceError if a model diverged, once the others are trained, and WorkError if Ray fails, or
    if workers fail twice without a new checkpoint in between.
    """
    every = list(chain(*groups))
    for job in every:
        (job.run / ".progress.json").unlink(missing_ok=True)
    pool = ThreadPoolExecutor(len(groups))  # so that the main thread can be interrupted
    training = {pool.submit(train_group, zoo, jobs, resources): jobs for jobs in groups}
    pool.shutdown(wait=False)
    waiting, diverged = set(training), dict[Path, str | None]()
    try:
        while waiting:
            done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
            on_progress()
            for group in done:
                runs = (job.run for job in training[group])
                diverged |= zip(runs, group.result(), strict=True)
    finally:
        if waiting:
            import ray

            ray.shutdown()  # end the workers, so that they write no more
            wait(waiting, END_SECONDS)
    for job in every:
        if (what := diverged[job.run]) is not None:
            raise DivergenceError(divergence(job.run, what))


def train_group(zoo: Zoo, jobs: Sequence[Job], resources: ResourcesConfig) -> list[str | None]:
    """The result of `launch_workers`, which is tried again if workers fail."""
    failures = 0
    while True:
        before = [latest(job.run) for job in jobs]
        try:
            return launch_workers(zoo, jobs, resources)
        except WorkersError:
            failures = failures + 1 if before == [latest(job.run) for job in jobs] else 0
            if failures > MAX_FAILURES:
                raise


def launch_workers(zoo: Zoo, jobs: Sequence[Job], resources: ResourcesConfig) -> list[str | None]:
    """The result of `train_worker`. Raises WorkError if Ray or workers fail, and passes on the
    InputError and ArchiveError of workers."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError

    from pipeline.training.lean_trainer import LeanTrainer, TorchWorkers

    os.environ.setdefault(HEALTH_CHECK_INTERVAL, str(POLL_SECONDS))
    os.environ.setdefault(START_TIMEOUT, str(START_SECONDS))
    on_gpu = resources.gpus_per_worker > 0
    storage = (jobs[0].run / ".ray.tmp").resolve()
    per_worker = {"CPU": 1} | ({"GPU": resources.gpus_per_worker} if on_gpu else {})
    trainer = LeanTrainer(
        train_worker,
        train_loop_config=spec_of(zoo, jobs, on_gpu),
        backend_config=TorchWorkers(),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # as Ray Train V2 takes it
            num_workers=resources.workers  # type: ignore[arg-type]  # or a range
            if resources.fewest == resources.workers
            else (resources.fewest, resources.workers),
            use_gpu=on_gpu,
            resources_per_worker=per_worker,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    shutil.rmtree(storage, ignore_errors=True)
    try:
        return trainer.fit().return_value  # type: ignore[attr-defined]  # of Ray Train V2
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        cause = cause_of(error)
        if isinstance(cause, InputError | ArchiveError):  # trying again would not help
            raise cause from error
        # Other errors of Ray are its controller's, which keeps the resources of its workers until
        # this command ends.
        kind = WorkersError if isinstance(error, TrainingFailedError) else WorkError
        raise kind(
            f"training of {under_way(jobs).run} failed: {reason(cause)}; "
            "run the same command again to continue"
        ) from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def under_way(jobs: Sequence[Job]) -> Job:
    """The first job that is not fully trained, or the last."""
    return next((job for job in jobs if not is_trained(job.run, job.training)), jobs[-1])


def cause_of(error: Exception) -> Exception:
    """The error of a worker or of Ray Train's controller, without Ray's wrapping."""
    failures = getattr(error, "worker_failures", {}).values()
    return next(iter(failures), getattr(error, "controller_failure", error))


def divergence(run: Path, what: str) -> str:
    """The message for a user about a training that diverged; `what` is the worker's description."""
    history = read_history(run)
    kept = (
        f"`dwszoo evaluate` and `predict` use its best checkpoint, epoch {history.best.epoch}"
        if history
        else "it has no earlier checkpoint"
    )
    return (
        f"training of {run} diverged: {what}; {kept}; "
        "train with a smaller training.learning_rate into another --out"
    )


def spec_of(zoo: Zoo, jobs: Sequence[Job], on_gpu: bool) -> dict[str, Any]:
    """The arguments of the workers, as JSON."""
    return {
        "zoo": str(zoo.folder.resolve()),
        "fingerprint": zoo.record.fingerprint,
        "trusted": sorted(zoo.trusted),
        "jobs": [job.as_json() for job in jobs],
        "on_gpu": on_gpu,
    }
