"""Checkpoints: `checkpoints/epoch-NNNN/` appears whole or not at all.

Each holds DeepSpeed's own state (to go on training), `model.safetensors` with `model.json` (to use the model: no
pickle) and `training.json` (what happened so far). The newest and the best are kept.
"""

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dwsnet.weight_space import WeightSpace
from pipeline.archive.files import read_json, sha256, write_atomic, write_json
from pipeline.archive.record import ZooRecord
from pipeline.errors import ArchiveError, InputError
from pipeline.tasks import Task
from pipeline.tasks.kinds import task_of
from pipeline.training.config import TrainingConfig
from pipeline.training.history import History
from pipeline.training.models import build_model, shared_names

TAG = "deepspeed"


def checkpoint_folder(run: Path, epoch: int) -> Path:
    return run / "checkpoints" / f"epoch-{epoch:04d}"


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint."""
    return max(
        (run / "checkpoints").glob("epoch-*"), default=None, key=lambda folder: int(folder.name[6:])
    )


def read_history(run: Path) -> History | None:
    """Every epoch up to the newest checkpoint; None before the first. Raises ArchiveError where it is damaged."""
    folder = latest(run)
    if folder is None:
        return None
    try:
        return History.from_json(read_json(folder / "training.json"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        if latest(run) != folder:  # a newer one took its place meanwhile
            return read_history(run)
        raise ArchiveError(damage(folder, error)) from error


def num_epochs(run: Path) -> int:
    """Epochs that a run is trained for already."""
    history = read_history(run)
    return 0 if history is None else len(history)


def damage(folder: Path, error: Exception) -> str:
    return f"checkpoint {folder} is damaged ({error}): put back a copy or train again with another --out"


def save(run: Path, engine, history: History, model_card: dict[str, Any], rank: int):
    """Called by every rank: DeepSpeed's ranks write their parts, rank 0 the rest, then the folder gets its name."""
    final = checkpoint_folder(run, history.newest.epoch)
    partial = final.with_name(f".{final.name}.tmp")
    try:
        write(partial, engine, history, model_card, rank)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if rank == 0:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        kept = {final, checkpoint_folder(run, history.best.epoch)}
        for folder in final.parent.glob("epoch-*"):
            if folder not in kept:
                shutil.rmtree(folder)


def write(partial: Path, engine, history: History, model_card: dict[str, Any], rank: int):
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
        write_json(partial / "training.json", history.as_json())
    torch.distributed.barrier()


def model_card(
    config: TrainingConfig,
    record: ZooRecord,
    prepared: Mapping[str, Any],
    encoder: nn.Module,
    model: nn.Module,
) -> dict[str, Any]:
    """The content of model.json: all that one needs beside the weights to build the model again."""
    return {
        "task": config.task.identity(),
        "encoder": config.encoder.identity(),
        "prepared": prepared,
        "encoder_tensors": shared_names(encoder, model),
        "zoo": record.model_dump(
            mode="json", include={"fingerprint", "tensors", "decode", "signals"}
        ),
    }


@dataclass(frozen=True)
class Checkpoint:
    """What the best checkpoint of a run holds beside DeepSpeed's state."""

    folder: Path
    epoch: int
    card: dict[str, Any]
    """model.json."""
    tensors: dict[str, Tensor]


def read_best(run: Path) -> Checkpoint:
    """The checkpoint of the epoch that was best on the validation split.

    Raises InputError where `run` has none, ArchiveError where it is damaged.
    """
    history = read_history(run)
    if history is None:
        raise InputError(
            f"{run} has no checkpoint: expected {run / 'checkpoints'}/epoch-NNNN; `dwszoo train` makes one"
        )
    folder = checkpoint_folder(run, history.best.epoch)
    try:
        card = read_json(folder / "model.json")
        weights = (folder / "model.safetensors").read_bytes()
        if sha256(weights) != card["sha256"]:
            raise ValueError(
                f"model.safetensors must have sha256 {card['sha256']}, found {sha256(weights)}"
            )
        return Checkpoint(folder, history.best.epoch, card, safetensors.torch.load(weights))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArchiveError(damage(folder, error)) from error


@dataclass(frozen=True)
class TrainedModel:
    """A model read back from a checkpoint, in evaluation mode."""

    model: nn.Module
    encoder: nn.Module
    """Of the model, its tensors shared."""
    config: TrainingConfig
    """Of which task and encoder are those of the model."""
    task: Task
    space: WeightSpace
    prepared: dict[str, Any]
    epoch: int


def load_best(run: Path, trusted: Collection[str] = ()) -> TrainedModel:
    """The model of the epoch that was best on the validation split.

    Raises InputError where `run` has no checkpoint, or where its task or encoder is code of the user's in a module that is
    not `trusted`: nothing is called because a folder names it.
    """
    best = read_best(run)
    try:
        config = TrainingConfig(task=best.card["task"], encoder=best.card["encoder"])
        space, prepared = (
            WeightSpace.from_shapes(best.card["zoo"]["tensors"]),
            best.card["prepared"],
        )
        encoder, model = build_model(config, space, prepared, trusted)
        model.load_state_dict(best.tensors)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ArchiveError(damage(best.folder, error)) from error
    task = task_of(config.task, trusted)
    return TrainedModel(model.eval(), encoder, config, task, space, prepared, best.epoch)
