"""The training loop: what every worker runs."""

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.archive.zoo import Zoo
from pipeline.config import TrainingConfig
from pipeline.location import Location
from pipeline.tasks import classification
from pipeline.training import checkpoint
from pipeline.training.checkpoint import EpochMetrics
from pipeline.training.engine import make_engine
from pipeline.training.loader import epoch_batches, num_batches, split_batches

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


def write_metrics(run: Path, history: list[EpochMetrics]):
    """metrics.jsonl, one line an epoch: what the newest checkpoint knows, so a resumed run has no line twice."""
    write_whole(
        run / "metrics.jsonl", "".join(json.dumps(asdict(metrics)) + "\n" for metrics in history)
    )


def write_whole(path: Path, text: str):
    """Readers see the old text or the new; not flushed to disk, as nothing is resumed from it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def train_loop(
    zoo_folder: Location,
    run: Path,
    config: TrainingConfig,
    rank: int,
    world_size: int,
    on_gpu: bool,
) -> int | None:
    """Train from the newest checkpoint of `run` to the last epoch; a checkpoint and a line of metrics after each epoch.

    Returns the epoch in which the loss was no longer finite, of which nothing is kept; None where training came to its end.
    """
    zoo = Zoo.open(zoo_folder)
    steps = num_batches(zoo, "train", config.batch_size)
    torch.manual_seed(config.seed)
    model = classification.build_model(config.model, zoo.space, len(zoo.record.signals.class_names))
    model = classification.adapt_to(zoo, model)
    engine = make_engine(model, config, steps * config.epochs, world_size, on_gpu)
    history = checkpoint.read_history(run)
    if history:
        engine.load_checkpoint(str(checkpoint.latest(run)), tag=checkpoint.TAG)
    card = checkpoint.model_card(config.model, zoo.record)
    for epoch in range(len(history) + 1, config.epochs + 1):
        start = time.perf_counter()
        train_loss = train_epoch(engine, zoo, run, config, epoch, rank, world_size)
        seconds = time.perf_counter() - start
        average_buffers(engine.module)
        loss, accuracy = score(engine, zoo, "validation", rank, world_size)
        if not math.isfinite(train_loss + loss):
            return epoch
        history.append(
            EpochMetrics(
                epoch=epoch,
                train_loss=train_loss,
                validation_loss=loss,
                validation_accuracy=accuracy,
                learning_rate=engine.get_lr()[0],
                seconds=seconds,
                models_per_second=steps * config.batch_size / seconds,
            )
        )
        checkpoint.save(run, engine, history, card, rank)
        if rank == 0:
            write_metrics(run, history)
    return None


def train_epoch(
    engine, zoo: Zoo, run: Path, config: TrainingConfig, epoch: int, rank: int, world_size: int
) -> float:
    """One pass over the train split, cut short where the loss is no longer finite.

    Returns the mean loss over the epoch and all ranks.
    """
    engine.train()
    torch.manual_seed(
        int(np.random.SeedSequence([config.seed, epoch, rank]).generate_state(1)[0])
    )  # dropout
    batches = epoch_batches(zoo, "train", config.seed, epoch, config.batch_size, rank, world_size)
    steps = num_batches(zoo, "train", config.batch_size)
    total, start = torch.zeros((), device=engine.device), time.perf_counter()
    last_pulse = start
    for step, batch in enumerate(batches, start=1):
        batch = batch.to(engine.device)
        loss = classification.loss(engine(batch.state), batch.labels)
        engine.backward(loss)
        engine.step()
        total += loss.detach()
        if step % CHECK_STEPS == 0 and not over_ranks(total).isfinite():
            break
        now = time.perf_counter()
        if rank == 0 and now - last_pulse >= PULSE_SECONDS:
            last_pulse = now
            rate = step * config.batch_size / (now - start)
            write_pulse(
                run,
                Pulse(
                    ((epoch - 1) * steps + step) * config.batch_size,
                    epoch,
                    total.item() / step,
                    rate,
                ),
            )
    return over_ranks(total).item() / steps / world_size


def over_ranks(value: Tensor) -> Tensor:
    """Its sum over all ranks."""
    total = value.clone()
    dist.all_reduce(total)
    return total


def average_buffers(model: nn.Module):
    """Batch norm's running statistics become their mean over the ranks, each of which saw its own share."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()


@torch.no_grad()
def score(engine, zoo: Zoo, split: str, rank: int, world_size: int) -> tuple[float, float]:
    """Mean loss and accuracy over `split`, on all ranks together."""
    engine.eval()
    total = torch.zeros(3, dtype=torch.float64, device=engine.device)
    for batch in split_batches(zoo, split, rank, world_size):
        batch = batch.to(engine.device)
        total += classification.totals(engine.module(batch.state), batch.labels)
    count, loss, correct = over_ranks(total).tolist()
    return loss / count, correct / count
