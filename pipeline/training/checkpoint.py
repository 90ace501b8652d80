"""Checkpoints, written atomically.

Each has `model.safetensors` with `model.json` (to use the model), `optimizer.safetensors` (to
resume training, on any number of ranks and at any ZeRO stage) and `training.json` (the history so
far and the position to resume from). The schedule and all random numbers are functions of that
position. Nothing in a checkpoint is a pickle.
"""

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dwsnet.pretrained import CONFIG, TENSORS
from dwsnet.weight_space import WeightSpace
from pipeline.archive.files import read_json, sha256, write_atomic, write_json
from pipeline.archive.record import ZooRecord
from pipeline.errors import ArchiveError, InputError
from pipeline.location import Location
from pipeline.tasks import Task
from pipeline.tasks.own import task_of
from pipeline.training.checkpoint_folders import (
    LAST,
    checkpoint_folder,
    checkpoints,
    folders,
    latest,
    new_checkpoint,
    remove,
)
from pipeline.training.config import TrainingConfig
from pipeline.training.history import History, Progress
from pipeline.training.models import build_model, shared_names
from pipeline.training.state import weights_of
from pipeline.training.status import write_epochs


def read_history(run: Path) -> History | None:
    """The epochs finished by the newest checkpoint; None if there is none.

    Raises ArchiveError if the checkpoint is damaged.
    """
    folder = latest(run)
    if folder is None:
        return None
    try:
        return History.from_json(read_json(folder / LAST))
    except (OSError, ValueError, TypeError, KeyError) as error:
        if latest(run) != folder:  # replaced by a newer one in the meantime
            return read_history(run)
        raise ArchiveError(damage(folder, error)) from error


def num_epochs(run: Path) -> int:
    """The number of epochs that a run has finished."""
    history = read_history(run)
    return 0 if history is None else len(history)


def damage(folder: Location, error: Exception) -> str:
    return (
        f"checkpoint {folder} is damaged ({error}): put back a copy or train again with another "
        "--out"
    )


@contextmanager
def undamaged(folder: Location) -> Iterator[None]:
    """Raises ArchiveError if the block fails to read the checkpoint as it was written."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArchiveError(damage(folder, error)) from error


@dataclass(frozen=True)
class Snapshot:
    """Everything needed to resume training, on rank 0, with tensors on the CPU."""

    history: History
    progress: Progress
    model: Mapping[str, Tensor]
    """The model's state dict."""
    moments: Mapping[str, Tensor]
    """Adam's moments and, if the model is an average, the weights, named as in
    `pipeline.training.state`."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The state dict that training continues from."""
        return weights_of(self.moments) or self.model

    def folder_in(self, run: Path) -> Location:
        """Its folder. Before the first step of an epoch it is that of the previous epoch's end."""
        if self.progress.step:
            return checkpoint_folder(run, self.progress.epoch, self.progress.step)
        return checkpoint_folder(run, self.progress.epoch - 1)


def write(run: Path, snapshot: Snapshot, card: Mapping[str, Any], kept: int):
    """Write a checkpoint, and remove all others except the newest `kept` and the best."""
    with new_checkpoint(snapshot.folder_in(run)) as folder:
        weights, moments = (
            safetensors.torch.save(dict(tensors)) for tensors in (snapshot.model, snapshot.moments)
        )
        write_atomic(folder / "model.safetensors", weights)
        write_json(folder / "model.json", {**card, "sha256": sha256(weights)})
        write_atomic(folder / "optimizer.safetensors", moments)
        progress = {"progress": asdict(snapshot.progress), "optimizer_sha256": sha256(moments)}
        write_json(folder / LAST, snapshot.history.as_json() | progress)
    best = {checkpoint_folder(run, snapshot.history.best.epoch)} if len(snapshot.history) else set()
    for folder in set(folders(run)) - {*checkpoints(run)[-kept:], *best}:
        remove(folder)


@dataclass
class Writer:
    """Writes checkpoints, one after another, in a thread while training continues."""

    run: Path
    card: Mapping[str, Any]
    kept: int
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    pending: Future | None = None

    def write(self, snapshot: Snapshot):
        """Start writing once the previous checkpoint is written; raises the error of that one."""
        self.wait()
        self.pending = self.thread.submit(self._write, snapshot)

    def _write(self, snapshot: Snapshot):
        write(self.run, snapshot, self.card, self.kept)
        write_epochs(self.run, snapshot.history)

    def wait(self):
        """Wait until everything is written; raises the error if that failed."""
        if self.pending is not None:
            self.pending.result()


def read_newest(run: Path) -> Snapshot | None:
    """The newest checkpoint; None if there is none. Raises as `require_resumable`."""
    require_resumable(run)
    folder = latest(run)
    if folder is None:
        return None
    with undamaged(folder):
        training, card = read_json(folder / LAST), read_json(folder / "model.json")
        return Snapshot(
            History.from_json(training),
            Progress.from_json(training["progress"]),
            read_tensors(folder / "model.safetensors", card["sha256"]),
            read_tensors(folder / "optimizer.safetensors", training["optimizer_sha256"]),
        )


def require_resumable(run: Path):
    """Raises InputError if the newest checkpoint has pickles, as older versions wrote them."""
    folder = latest(run)
    if folder is not None and not (folder / "optimizer.safetensors").exists():
        raise InputError(
            f"training cannot resume from {folder}: expected optimizer.safetensors, found none: "
            "older versions wrote pickles, which are no longer read; `dwszoo evaluate` and "
            "`predict` still work, or train again with another --out"
        )


def read_tensors(file: Location, digest: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ValueError if its sha256 differs."""
    content = file.read_bytes()
    if sha256(content) != digest:
        raise ValueError(f"{file.name} must have sha256 {digest}, found {sha256(content)}")
    return safetensors.torch.load(content)


def model_card(
    config: TrainingConfig,
    record: ZooRecord,
    prepared: Mapping[str, Any],
    encoder: nn.Module,
    model: nn.Module,
) -> dict[str, Any]:
    """The content of model.json: all that is needed besides the weights to rebuild the model."""
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
    """The model of a run's best checkpoint."""

    folder: Location
    epoch: int
    card: dict[str, Any]
    """model.json."""
    tensors: dict[str, Tensor]


def is_exported(folder: Path) -> bool:
    """Whether this is a model that `dwszoo export` wrote, and not a run."""
    return (folder / TENSORS).is_file()


def read_exported(folder: Path) -> Checkpoint:
    """The checkpoint that was exported. Raises InputError if there is none or it is damaged."""
    try:
        card = read_json(folder / CONFIG)
        tensors = read_tensors(folder / TENSORS, card["sha256"])
        return Checkpoint(folder, card.pop("epoch"), card, tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(
            f"{folder} must have {CONFIG} and {TENSORS} as `dwszoo export` writes them, found "
            f"others: {error!r}"
        ) from error


def read_best(run: Path) -> Checkpoint:
    """The checkpoint of the epoch that was best on the validation split; `run` may be exported.

    Raises InputError if `run` has none, ArchiveError if it is damaged.
    """
    if is_exported(run):
        return read_exported(run)
    history = read_history(run)
    if not history:
        raise InputError(
            f"{run} has no checkpoint: expected {run / 'checkpoints'}/epoch-NNNN; `dwszoo train` "
            "makes one"
        )
    folder = checkpoint_folder(run, history.best.epoch)
    with undamaged(folder):
        card = read_json(folder / "model.json")
        tensors = read_tensors(folder / "model.safetensors", card["sha256"])
        return Checkpoint(folder, history.best.epoch, card, tensors)


@dataclass(frozen=True)
class TrainedModel:
    """A model loaded from a checkpoint, in evaluation mode."""

    model: nn.Module
    encoder: nn.Module
    """The model's encoder, sharing its tensors."""
    config: TrainingConfig
    """Only its task and encoder are the model's own."""
    task: Task
    space: WeightSpace
    prepared: dict[str, Any]
    epoch: int

    @classmethod
    def from_pretrained(cls, folder: str | Path, trusted: Collection[str] = ()) -> "TrainedModel":
        """The model in a folder that `dwszoo export` wrote.

        Raises InputError if there is none, and as `rebuilt`.
        """
        return rebuilt(read_exported(Path(folder)), trusted)


def load_best(run: Path, trusted: Collection[str] = ()) -> TrainedModel:
    """The model of the epoch that was best on the validation split. Raises as `read_best` and
    `rebuilt`."""
    return rebuilt(read_best(run), trusted)


def rebuilt(best: Checkpoint, trusted: Collection[str]) -> TrainedModel:
    """The model of a checkpoint.

    Raises InputError if its task or encoder is the user's own code in a module that is not
    `trusted`: nothing is called only because a folder names it.
    """
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
