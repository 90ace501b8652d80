"""The training loop that every worker runs."""

from pathlib import Path
from typing import Any

import torch

from pipeline.archive.zoo import Zoo
from pipeline.functions import modules_named
from pipeline.tasks.own import task_of
from pipeline.training import checkpoint
from pipeline.training.average import WeightAverage
from pipeline.training.config import TrainingConfig
from pipeline.training.engine import make_engine
from pipeline.training.history import History, Progress
from pipeline.training.loader import Feed
from pipeline.training.models import build_model, calibrate
from pipeline.training.start import begin_from
from pipeline.training.state import set_moments
from pipeline.training.trainer import Trainer, Worker


def train_loop(
    zoo: Zoo,
    run: Path,
    config: TrainingConfig,
    prepared: dict[str, Any],
    worker: Worker,
) -> str | None:
    """Train from the newest checkpoint of `run` to the last epoch, with metrics after each epoch.

    `prepared` is what the task computed from the train split. Returns how training diverged, in
    which case earlier checkpoints are kept, or None if it finished.
    """
    if checkpoint.num_epochs(run) >= config.epochs:
        return None
    return make_trainer(zoo, run, config, prepared, worker).train()


def make_trainer(
    zoo: Zoo,
    run: Path,
    config: TrainingConfig,
    prepared: dict[str, Any],
    worker: Worker,
) -> Trainer:
    """A trainer at the newest checkpoint of `run`, or at the beginning."""
    trusted = modules_named(config)  # the configuration is the caller's own
    task, newest = task_of(config.task, trusted), checkpoint.read_newest(run)
    torch.manual_seed(config.seed)
    encoder, model = build_model(config, zoo.space, prepared, trusted)
    calibrate(encoder, zoo)
    if config.start is not None:
        begin_from(config.start, encoder, is_new=newest is None)
    if newest is not None:
        model.load_state_dict(newest.weights)
    task.attach(model, zoo)
    card = checkpoint.model_card(config, zoo.record, prepared, encoder, model)
    engine = make_engine(model, config, worker.world_size, worker.on_gpu)
    if newest is not None:
        set_moments(engine, newest.moments, newest.progress.updates)
    average = WeightAverage(engine.module, config.ema_decay) if config.ema_decay else None
    if average is not None and newest is not None:
        average.load(newest.model)
    return Trainer(
        engine=engine,
        encoder=encoder,
        task=task,
        feed=Feed.of(task, zoo, "train", config.members, config.seed, config.passes),
        scored=Feed.of(task, zoo, "validation"),
        config=config,
        worker=worker,
        run=run,
        writer=checkpoint.Writer(run, card, config.checkpoints_kept),
        history=newest.history if newest else History(task.monitor),
        progress=newest.progress if newest else Progress(),
        average=average,
    )
