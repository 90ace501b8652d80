"""The models that a recipe trains, their number of steps, and the time per step."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dwsnet.models import num_parameters
from flows.forecast.zoos import SmallZoo
from flows.recipe import Recipe
from pipeline.fit.timing import median_seconds
from pipeline.functions import modules_named
from pipeline.tasks import Batch, Task
from pipeline.tasks.own import task_of
from pipeline.training.config import TrainingConfig
from pipeline.training.engine import AdamW, train_in_bfloat16
from pipeline.training.launch import check_batches
from pipeline.training.loader import Feed
from pipeline.training.models import build_model, calibrate
from pipeline.training.transfer import TRANSFERS
from pipeline.training.variants import variants

BUDGET = 0.5
"""Seconds spent on training steps of a model, and on scoring it."""


@dataclass(frozen=True)
class PlannedModel:
    title: str
    folder: Path
    """Relative to the run folder."""
    training: TrainingConfig
    steps: int
    """Steps per epoch."""


@dataclass(frozen=True)
class Cost:
    """The cost of a model on one worker."""

    num_parameters: int
    step: float
    """Seconds per step on the worker's share of the batch."""
    score: float
    """Seconds to score one member."""


def planned_models(recipe: Recipe, planned: Any, small: SmallZoo) -> Iterator[PlannedModel]:
    """All models of a run on `planned`, a `PlannedZoo`, in the order of their training.

    Raises InputError if the task cannot be learned from the zoo, or the train split does not fill a
    batch.
    """
    training = recipe.required_training
    models: dict[str, tuple[Path, TrainingConfig]] = {}
    task = task_of(training.task, modules_named(training))
    task.check(small)
    prepared = task.prepare(small)
    for variant in variants(training):
        config = variant.of(training, small.space, prepared)
        models[variant.title(training)] = variant.folder, config
    if recipe.probe is not None and recipe.probe.finetune is not None:
        num_members = Feed(planned, "train", ()).num_members
        for transfer in TRANSFERS:
            config = transfer.of(Path(), training, recipe.probe.finetune, num_members)
            title = f"{transfer.title}, {transfer.percent}"
            models[title] = transfer.folder, config.model_copy(update={"start": None})
    for title, (folder, config) in models.items():
        of = task_of(config.task, modules_named(config))
        feed = Feed(planned, "train", (), of.group, config.members, config.seed, config.passes)
        check_batches(feed, config, recipe.resources.workers)
        yield PlannedModel(title, folder, config, feed.num_batches(config.batch_size))


def cost_of(training: TrainingConfig, small: SmallZoo, workers: int, device: str) -> Cost:
    """The cost of a model, measured on a worker's share of a batch from a small zoo, without
    communication between workers."""
    trusted = modules_named(training)
    task = task_of(training.task, trusted)
    encoder, model = build_model(training, small.space, task.prepare(small), trusted)
    calibrate(encoder, small)
    task.attach(model, small)
    if training.start is not None and training.start.freeze:
        encoder.requires_grad_(False)
    if training.precision == "bf16":
        train_in_bfloat16(model, device)
    model.to(device)
    feed = Feed.of(task, small, "train")
    share = -(-training.batch_size // workers)
    size = max(task.group, min(share, feed.num_members) // task.group * task.group)
    batch, scored = next(feed.epoch(1, size)), next(feed.whole())
    keys, scored = feed.keys(1, batch).to(device), scored.to(device)
    batch = batch.to(device)
    step = median_seconds(stepper(training, task, model, batch, keys), device, BUDGET)
    model.eval()
    with torch.no_grad():
        score = median_seconds(lambda: task.sums(model, scored), device, BUDGET)
    return Cost(num_parameters(model), step * share / size, score / len(scored))


def stepper(
    training: TrainingConfig, task: Task, model: nn.Module, batch: Batch, keys: torch.Tensor
):
    """A function that takes one optimiser step like that of `pipeline.training.engine`."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = AdamW(learned, lr=1e-6, fused=True)
    model.train()

    def step():
        optimizer.zero_grad()
        task.loss(model, batch, keys).backward()
        nn.utils.clip_grad_norm_(learned, training.gradient_clip)
        optimizer.step()

    return step
