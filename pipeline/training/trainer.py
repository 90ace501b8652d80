"""Training a model, step by step and epoch by epoch."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.tasks import Task
from pipeline.tasks.task import Batch
from pipeline.training import checkpoint
from pipeline.training.average import WeightAverage
from pipeline.training.config import TrainingConfig
from pipeline.training.engine import Outcome, learning_rate_factor, take_step
from pipeline.training.history import EpochMetrics, History, Progress, are_finite
from pipeline.training.loader import Feed
from pipeline.training.running_statistics import RunningStatistics
from pipeline.training.scoring import add_up, sums_over
from pipeline.training.state import WEIGHTS, gather_model, gather_moments, whole
from pipeline.training.status import StatusWriter
from pipeline.training.trackers import Trackers
from pipeline.training.utilization import ModelFlops

CLOCK_STEPS = 10
"""Steps between checks whether a checkpoint is due by the clock, which is that of rank 0."""


@dataclass(frozen=True)
class Worker:
    """The rank of this process, the world size, and its device."""

    rank: int
    world_size: int
    on_gpu: bool


@dataclass
class Trainer:
    """The training of a model, on one rank."""

    engine: Any
    """DeepSpeed's engine."""
    encoder: nn.Module
    task: Task
    feed: Feed
    """The train split."""
    scored: Feed
    """The validation split."""
    config: TrainingConfig
    worker: Worker
    run: Path
    writer: checkpoint.Writer
    history: History
    progress: Progress
    """Progress up to the last step whose outcome was read."""
    average: WeightAverage | None = None
    """The average of the weights, if it is what is scored and saved."""
    outcome: Outcome | None = None
    """Outcome of the newest step, which is read while a GPU computes the next step."""

    def __post_init__(self):
        self.steps = self.feed.num_batches(self.config.batch_size)
        self.statistics = RunningStatistics(self.engine.module)
        self.status = StatusWriter(self.run, self.steps, self.config.batch_size)
        kinds = self.config.trackers if self.worker.rank == 0 else ()
        self.trackers = Trackers(kinds, self.run, self.steps_done)
        dtype = torch.bfloat16 if self.config.precision == "bf16" else torch.float32
        measured = self.engine.device, dtype, self.config.compile
        self.flops = ModelFlops(*measured) if self.worker.on_gpu else None
        self.coming = self.batches_from(self.progress)
        self.saved = time.monotonic()

    @property
    def step_number(self) -> int:
        """Number of the next step in its epoch, from 0; includes the step not yet in `progress`."""
        return self.progress.step + (self.outcome is not None)

    @property
    def steps_done(self) -> int:
        """Number of steps since training began."""
        return (self.progress.epoch - 1) * self.steps + self.step_number

    def train(self) -> str | None:
        """Train to the last epoch; returns how training diverged, if it did."""
        divergence = None
        while self.progress.epoch <= self.config.epochs and divergence is None:
            divergence = self.train_epoch() or self.finish_epoch()
        self.trackers.close()
        self.writer.wait()
        return divergence

    def train_epoch(self) -> str | None:
        """Do the remaining steps of an epoch; returns how training diverged, if it did."""
        self.engine.train()
        if self.config.start is not None and self.config.start.freeze:
            self.encoder.eval()
        progress, totals = self.progress, self.progress.totals
        before = time.perf_counter()
        for batch in self.coming:
            begun = time.perf_counter()
            outcome = self.step(batch)
            self.catch_up()
            self.outcome = outcome
            ended = time.perf_counter()
            totals.data_seconds += begun - before
            totals.seconds += ended - before
            if divergence := self.divergence():
                return divergence
            if self.worker.rank == 0 and (status := self.status.show(progress)):
                self.trackers.log(
                    {
                        "loss": status.loss,
                        "models_per_second": status.models_per_second,
                        "learning_rate": self.learning_rate(),
                        "gradient_norm": progress.mean(totals.gradient_norm),
                    },
                    self.steps_done,
                )
            if self.is_checkpoint_due():
                self.average_statistics()
                self.save()
            before = time.perf_counter()
        self.catch_up()
        totals.seconds += time.perf_counter() - before
        return self.divergence()

    def batches_from(self, progress: Progress) -> Iterator[Batch]:
        """The batches of this rank to the end of the epoch; prefetching starts now."""
        worker, size = self.worker, self.config.batch_size
        place = worker.rank, worker.world_size, progress.step
        return self.feed.epoch(progress.epoch, size, *place)

    def catch_up(self):
        """Read the outcome of the newest step, if not yet done."""
        if self.outcome is not None:
            self.progress.count(*self.outcome.read())
            self.outcome = None

    def divergence(self) -> str | None:
        """How training diverged, if it did, judged by the steps whose outcome was read."""
        epoch, most = self.progress.epoch, self.config.max_skipped_steps
        if self.progress.skipped_in_a_row < most:
            return None
        return f"in epoch {epoch} {most} steps in a row had no finite loss or gradient"

    def step(self, batch: Batch) -> Outcome:
        """Take a step. The loss is the contribution of this rank's part to the mean over the batch.

        Dropout is seeded by (seed, epoch, step, rank).
        """
        config, epoch = self.config, self.progress.epoch
        seed = np.random.SeedSequence([config.seed, epoch, self.step_number, self.worker.rank])
        torch.manual_seed(int(seed.generate_state(1)[0]))
        self.statistics.keep()
        keys = self.feed.keys(epoch, batch).to(self.engine.device)
        weight = len(batch) * self.worker.world_size / config.batch_size
        with self.flops.counted() if self.flops else nullcontext():
            loss = self.task.loss(self.engine, batch.to(self.engine.device), keys)
            norm = take_step(self.engine, loss, weight, self.learning_rate(), config.gradient_clip)
        self.statistics.put_back(~norm.isfinite())
        if self.average is not None:
            self.average.update(self.steps_done, norm.isfinite())
        return Outcome(weight * loss, norm)

    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        total = self.steps * self.config.epochs
        factor = learning_rate_factor(self.steps_done, total, self.config.warmup_fraction)
        return self.config.learning_rate * factor

    def finish_epoch(self) -> str | None:
        """Score the model and write a checkpoint; returns how training diverged, if it did."""
        progress, totals = self.progress, self.progress.totals
        self.average_statistics()
        if progress.epoch < self.config.epochs:
            self.coming = self.batches_from(progress.next_epoch())
        train_loss, validation = progress.mean(self.over_ranks(totals.loss)), self.score()
        if not are_finite(train_loss, validation, self.task.monitor):
            return f"in epoch {progress.epoch} the loss is no longer finite"
        step_seconds = totals.seconds / self.steps
        metrics = EpochMetrics(
            epoch=progress.epoch,
            train_loss=train_loss,
            validation=validation,
            learning_rate=self.learning_rate(),
            seconds=totals.seconds,
            models_per_second=self.steps * self.config.batch_size / totals.seconds,
            step_seconds=step_seconds,
            data_seconds=totals.data_seconds / self.steps,
            gradient_norm=progress.mean(totals.gradient_norm),
            skipped_steps=totals.skipped,
            gpu_memory_bytes=torch.cuda.max_memory_reserved() if self.flops else None,
            model_flops_utilization=self.flops.utilization(step_seconds) if self.flops else None,
        )
        self.trackers.log(metrics.numbers(), self.steps_done)
        self.history, self.progress = self.history.and_then(metrics), progress.next_epoch()
        self.save()
        return None

    def over_ranks(self, value: float) -> float:
        """The mean of a value over the ranks."""
        total = torch.tensor(value, dtype=torch.float64, device=self.engine.device)
        dist.all_reduce(total)
        return total.item() / self.worker.world_size

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """The task's metrics on the validation split, over all ranks."""
        worker, device = self.worker, self.engine.device
        batches = (batch.to(device) for batch in self.scored.whole(worker.rank, worker.world_size))
        with whole(self.engine) as model, self.averaged():
            own = sums_over(self.task, model.eval(), batches)
        of_ranks: list[dict[str, Tensor]] = [{}] * worker.world_size
        dist.all_gather_object(of_ranks, own)
        return self.task.metrics(add_up(of_ranks))

    def averaged(self) -> AbstractContextManager:
        """In the block, the model is the one to score and save."""
        return nullcontext() if self.average is None else self.average.in_place()

    def average_statistics(self):
        """Average the running statistics over the ranks, and those of the averaged model."""
        self.statistics.average()
        if self.average is not None:
            with self.averaged():
                self.statistics.average()

    def is_checkpoint_due(self) -> bool:
        """Whether to write one now; the same on all ranks, and false while steps are skipped."""
        step, every = self.step_number, self.config.checkpoint_steps
        if step == self.steps or not ((every and step % every == 0) or self.is_newest_old()):
            return False
        self.catch_up()
        return not self.progress.skipped_in_a_row

    def is_newest_old(self) -> bool:
        """Whether the newest checkpoint is too old by rank 0's clock, checked every few steps."""
        if self.step_number % CLOCK_STEPS:
            return False
        age = torch.tensor(time.monotonic() - self.saved, device=self.engine.device)
        dist.broadcast(age, 0)
        return age.item() >= 60 * self.config.checkpoint_minutes

    def save(self):
        """Copy the state, with statistics already averaged, and write it in the background."""
        loss = self.over_ranks(self.progress.totals.loss)
        totals, moments = replace(self.progress.totals, loss=loss), gather_moments(self.engine)
        if self.average is not None:
            weights = gather_model(self.engine.module)
            moments |= {f"{WEIGHTS}{name}": tensor for name, tensor in weights.items()}
        with self.averaged():
            model = gather_model(self.engine.module)
        progress = replace(self.progress, totals=totals)
        snapshot = checkpoint.Snapshot(self.history, progress, model, moments)
        if self.worker.rank == 0:
            self.writer.write(snapshot)
        self.saved = time.monotonic()
