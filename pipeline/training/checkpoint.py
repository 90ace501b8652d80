"""Checkpoints: `checkpoints/epoch-NNNN/` appears whole or not at all.

Each holds DeepSpeed's own state (to go on training), `model.safetensors` with `model.json` (to use the model: no
pickle) and `training.json` (what happened so far). The newest and the best are kept.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from dwsnet.weight_space import WeightSpace
from pipeline.archive.files import read_json, sha256, write_atomic, write_json
from pipeline.archive.record import ZooRecord
from pipeline.config import ModelConfig, identity_of_model
from pipeline.errors import ArchiveError, InputError
from pipeline.tasks.classification import build_model

TAG = "deepspeed"


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.jsonl."""

    epoch: int
    """Counts from 1."""
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float
    models_per_second: float
    """Members trained on, over the time of the epoch without validation."""


def checkpoint_folder(run: Path, epoch: int) -> Path:
    return run / "checkpoints" / f"epoch-{epoch:04d}"


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint."""
    return max(
        (run / "checkpoints").glob("epoch-*"), default=None, key=lambda folder: int(folder.name[6:])
    )


def read_history(run: Path) -> list[EpochMetrics]:
    """Every epoch up to the newest checkpoint; empty before the first. Raises ArchiveError where it is damaged."""
    folder = latest(run)
    if folder is None:
        return []
    try:
        return [EpochMetrics(**line) for line in read_json(folder / "training.json")]
    except (OSError, ValueError, TypeError) as error:
        if latest(run) != folder:  # a newer one took its place meanwhile
            return read_history(run)
        raise ArchiveError(damage(folder, error)) from error


def damage(folder: Path, error: Exception) -> str:
    return f"checkpoint {folder} is damaged ({error}): put back a copy or train again with another --out"


def best_epoch(history: list[EpochMetrics]) -> EpochMetrics:
    """The first epoch with the highest validation accuracy."""
    return max(history, key=lambda metrics: (metrics.validation_accuracy, -metrics.epoch))


def save(run: Path, engine, history: list[EpochMetrics], model_card: dict[str, Any], rank: int):
    """Called by every rank: DeepSpeed's ranks write their parts, rank 0 the rest, then the folder gets its name."""
    final = checkpoint_folder(run, history[-1].epoch)
    partial = final.with_name(f".{final.name}.tmp")
    try:
        write(partial, engine, history, model_card, rank)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if rank == 0:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        kept = {final, checkpoint_folder(run, best_epoch(history).epoch)}
        for folder in final.parent.glob("epoch-*"):
            if folder not in kept:
                shutil.rmtree(folder)


def write(
    partial: Path, engine, history: list[EpochMetrics], model_card: dict[str, Any], rank: int
):
    """The content of a checkpoint; comes back on every rank when all of them have written."""
    import torch.distributed

    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    torch.distributed.barrier()
    engine.save_checkpoint(str(partial), tag=TAG)
    if rank == 0:
        state = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in engine.module.state_dict().items()
        }
        weights = safetensors.torch.save(state)
        write_atomic(partial / "model.safetensors", weights)
        write_json(partial / "model.json", model_card | {"sha256": sha256(weights)})
        write_json(partial / "training.json", [asdict(metrics) for metrics in history])
    torch.distributed.barrier()


def model_card(config: ModelConfig, record: ZooRecord) -> dict[str, Any]:
    """The content of model.json: all that one needs beside the weights to build the model again."""
    return {
        "model": config.identity(),
        "class_names": list(record.signals.class_names),
        "zoo": record.model_dump(
            mode="json", include={"fingerprint", "tensors", "decode", "signals"}
        ),
    }


@dataclass(frozen=True)
class TrainedModel:
    """A model read back from a checkpoint, in evaluation mode."""

    model: nn.Module
    space: WeightSpace
    class_names: list[str]
    epoch: int


def load_best(run: Path) -> TrainedModel:
    """The model with the highest validation accuracy. Raises InputError where `run` has no checkpoint."""
    history = read_history(run)
    if not history:
        raise InputError(
            f"{run} has no checkpoint: expected {run / 'checkpoints'}/epoch-NNNN; `dwszoo train` makes one"
        )
    best = best_epoch(history).epoch
    folder = checkpoint_folder(run, best)
    try:
        card = json.loads((folder / "model.json").read_bytes())
        weights = (folder / "model.safetensors").read_bytes()
        if sha256(weights) != card["sha256"]:
            raise ValueError(
                f"model.safetensors must have sha256 {card['sha256']}, found {sha256(weights)}"
            )
        space = WeightSpace.from_shapes(card["zoo"]["tensors"])
        model = build_model(
            ModelConfig(**identity_of_model(card["model"])), space, len(card["class_names"])
        )
        model.load_state_dict(safetensors.torch.load(weights))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ArchiveError(damage(folder, error)) from error
    return TrainedModel(model.eval(), space, card["class_names"], best)
