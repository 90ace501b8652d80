"""The training loop: what every worker runs."""

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.archive.zoo import Zoo
from pipeline.functions import modules_named
from pipeline.tasks import Task
from pipeline.tasks.kinds import task_of
from pipeline.training import checkpoint
from pipeline.training.config import TrainingConfig
from pipeline.training.engine import make_engine
from pipeline.training.history import EpochMetrics, History
from pipeline.training.loader import Feed
from pipeline.training.models import build_model, calibrate
from pipeline.training.scoring import add_up, sums_over
from pipeline.training.start import begin_from

PULSE_SECONDS = 1.0
"""How often rank 0 says how far it is."""
CHECK_STEPS = 100
"""Steps between looks at the loss: all ranks look at the same step, and stop together where it is not finite."""


@dataclass(frozen=True)
class Pulse:
    """How far training is, for a progress bar; the content of `.progress.json`."""

    members: int
    """Trained on since the first epoch."""
    epoch: int
    loss: float
    models_per_second: float


def read_pulse(run: Path) -> Pulse | None:
    """The newest pulse, None before the first."""
    try:
        return Pulse(**json.loads((run / ".progress.json").read_bytes()))
    except FileNotFoundError:
        return None


def write_pulse(run: Path, pulse: Pulse):
    write_whole(run / ".progress.json", json.dumps(asdict(pulse)))


def write_metrics(run: Path, history: History):
    """metrics.jsonl, one line an epoch: what the newest checkpoint knows, so a resumed run has no line twice."""
    lines = (json.dumps(asdict(epoch)) + "\n" for epoch in history.epochs)
    write_whole(run / "metrics.jsonl", "".join(lines))


def write_whole(path: Path, text: str):
    """Readers see the old text or the new; not flushed to disk, as nothing is resumed from it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


@dataclass(frozen=True)
class Worker:
    """Which of how many processes this is, and on what it trains."""

    rank: int
    world_size: int
    on_gpu: bool


def train_loop(
    zoo: Zoo,
    run: Path,
    config: TrainingConfig,
    prepared: dict[str, Any],
    worker: Worker,
) -> int | None:
    """Train from the newest checkpoint of `run` to the last epoch; a checkpoint and a line of metrics after each epoch.

    `prepared` is what the task takes from the train split. Returns the epoch in which the loss was no longer finite, of
    which nothing is kept; None where training came to its end.
    """
    trusted = modules_named(config)  # by the caller, who gave this configuration
    task = task_of(config.task, trusted)
    history = checkpoint.read_history(run) or History(task.monitor)
    if len(history) >= config.epochs:
        return None
    feed = Feed.of(task, zoo, "train", config.members, config.seed, config.passes)
    scored = Feed.of(task, zoo, "validation")
    steps = feed.num_batches(config.batch_size)
    torch.manual_seed(config.seed)
    encoder, model = build_model(config, zoo.space, prepared, trusted)
    calibrate(encoder, zoo)
    if config.start is not None:
        begin_from(config.start, encoder, is_new=not len(history))
    task.attach(model, zoo)
    engine = make_engine(model, config, steps * config.epochs, worker.world_size, worker.on_gpu)
    if len(history):
        engine.load_checkpoint(str(checkpoint.latest(run)), tag=checkpoint.TAG)
    card = checkpoint.model_card(config, zoo.record, prepared, encoder, model)
    for epoch in range(len(history) + 1, config.epochs + 1):
        start = time.perf_counter()
        engine.train()
        if config.start is not None and config.start.freeze:
            encoder.eval()
        train_loss = train_epoch(engine, task, feed, run, config, epoch, worker)
        seconds = time.perf_counter() - start
        average_buffers(engine.module)
        validation = score(engine.module, task, scored, engine.device, worker)
        if not all(map(math.isfinite, (train_loss, *validation.values()))):
            return epoch
        history = history.and_then(
            EpochMetrics(
                epoch=epoch,
                train_loss=train_loss,
                validation=validation,
                learning_rate=engine.get_lr()[0],
                seconds=seconds,
                models_per_second=steps * config.batch_size / seconds,
            )
        )
        checkpoint.save(run, engine, history, card, worker.rank)
        if worker.rank == 0:
            write_metrics(run, history)
    return None


def train_epoch(
    engine,
    task: Task,
    feed: Feed,
    run: Path,
    config: TrainingConfig,
    epoch: int,
    worker: Worker,
) -> float:
    """One pass over the train split, cut short where the loss is no longer finite.

    Returns the mean loss over the epoch and all ranks.
    """
    seed = np.random.SeedSequence([config.seed, epoch, worker.rank])
    torch.manual_seed(int(seed.generate_state(1)[0]))  # dropout
    steps = feed.num_batches(config.batch_size)
    total, start = torch.zeros((), device=engine.device), time.perf_counter()
    last_pulse = start
    batches = feed.epoch(epoch, config.batch_size, worker.rank, worker.world_size)
    for step, batch in enumerate(batches, start=1):
        keys = feed.keys(epoch, batch).to(engine.device)
        loss = task.loss(engine, batch.to(engine.device), keys)
        engine.backward(loss)
        engine.step()
        total += loss.detach()
        if step % CHECK_STEPS == 0 and not over_ranks(total).isfinite():
            break
        now = time.perf_counter()
        if worker.rank == 0 and now - last_pulse >= PULSE_SECONDS:
            last_pulse = now
            members = ((epoch - 1) * steps + step) * config.batch_size
            rate = step * config.batch_size / (now - start)
            write_pulse(run, Pulse(members, epoch, total.item() / step, rate))
    return over_ranks(total).item() / steps / worker.world_size


def over_ranks(value: Tensor) -> Tensor:
    """Its sum over all ranks."""
    total = value.clone()
    dist.all_reduce(total)
    return total


def average_buffers(model: nn.Module):
    """Batch norm's running statistics become their mean over the ranks, each of which saw its own share."""
    kept = model.state_dict(keep_vars=True).values()
    for tensor in kept:
        if not isinstance(tensor, nn.Parameter) and tensor.is_floating_point():
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()


@torch.no_grad()
def score(
    model: nn.Module, task: Task, feed: Feed, device: torch.device, worker: Worker
) -> dict[str, float]:
    """The task's metrics on a split, of all ranks together."""
    model.eval()
    own = sums_over(
        task, model, (batch.to(device) for batch in feed.whole(worker.rank, worker.world_size))
    )
    of_ranks: list[dict[str, Tensor]] = [{}] * worker.world_size
    dist.all_gather_object(of_ranks, own)
    return task.metrics(add_up(of_ranks))
