"""Starting from the encoder of another run: finds its model and checks that it fits."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dwsnet.weight_space import WeightSpace
from pipeline.archive.record import ZooRecord
from pipeline.config import differences
from pipeline.errors import InputError
from pipeline.functions import modules_named
from pipeline.training.checkpoint import read_best
from pipeline.training.config import StartConfig, TrainingConfig
from pipeline.training.models import build_model, load_encoder, shared_names


def resolve_start(training: TrainingConfig, record: ZooRecord) -> TrainingConfig:
    """The configuration with the sha256 of the model that it starts from, if any.

    Raises InputError if there is no such model, its encoder differs, or it reads networks of other
    shapes than `record`.
    """
    if training.start is None:
        return training
    run = training.start.checkpoint
    if run is None:
        raise InputError("training.start.checkpoint must be the folder of a run, found null")
    best = read_best(run)
    tensors = {name: tuple(shape) for name, shape in best.card["zoo"]["tensors"].items()}
    if tensors != record.tensors:
        raise InputError(
            f"training.start.checkpoint {run} reads networks with tensors {tensors}, but the zoo "
            f"holds networks with tensors {record.tensors}: start from a run on networks of the "
            "same shape"
        )
    if fields := differences(best.card["encoder"], training.encoder.identity()):
        raise InputError(
            f"training.start.checkpoint {run} has another encoder, which differs in "
            f"{'; '.join(fields)}: set training.encoder as in that run"
        )
    sha256 = best.card["sha256"]
    if training.start.sha256 not in (None, sha256):
        raise InputError(
            f"training.start.checkpoint {run} must hold the model with sha256 "
            f"{training.start.sha256}, found {sha256}"
        )
    named = {"checkpoint": run.resolve(), "sha256": sha256}
    return training.model_copy(update={"start": training.start.model_copy(update=named)})


def check_frozen(training: TrainingConfig, space: WeightSpace, prepared: Mapping[str, Any]):
    """Raises InputError if a part of the encoder would be frozen that was never trained."""
    if training.start is None or not training.start.freeze:
        return
    assert training.start.checkpoint is not None
    card = read_best(training.start.checkpoint).card
    with torch.device("meta"):
        used = shared_names(*build_model(training, space, prepared, modules_named(training)))
    if used.keys() - card["encoder_tensors"].keys():
        raise InputError(
            f"training.start.checkpoint {training.start.checkpoint} has not learned vectors of "
            f"networks, which task {training.task.kind} reads: set training.start.freeze=false or "
            "start from a run of another task"
        )


def begin_from(start: StartConfig, encoder: nn.Module, is_new: bool):
    """Load the encoder of another run into a new run's, and exclude it from training if frozen."""
    if is_new:
        assert start.checkpoint is not None
        best = read_best(start.checkpoint)
        load_encoder(encoder, best.card["encoder_tensors"], best.tensors)
    if start.freeze:
        encoder.requires_grad_(False)
