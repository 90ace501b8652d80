"""Stages that train models on a zoo, each into its own folder of a run."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from cluster.address import room_for_groups
from flows.bars import TrainingBars
from flows.stages.session import time_limit
from flows.tracker import stage, tracker
from pipeline.archive.files import read_json, write_json
from pipeline.archive.record import ZooRecord
from pipeline.archive.zoo import Zoo
from pipeline.config import ResourcesConfig, differences
from pipeline.encoders import EncoderConfig
from pipeline.errors import InputError
from pipeline.functions import Own, modules_named
from pipeline.location import Location
from pipeline.tasks import Task
from pipeline.tasks.augmentation import require_odd_activations
from pipeline.tasks.own import task_of
from pipeline.training.checkpoint import read_history, require_resumable
from pipeline.training.checkpoint_folders import latest, link_to, place_checkpoints, place_of
from pipeline.training.config import FinetuneConfig, ProbeConfig, TrainingConfig
from pipeline.training.launch import Job, check_batches, is_trained, launch_training
from pipeline.training.loader import Feed, LearnedFrom
from pipeline.training.models import try_encoder, warn_of_wide_axes
from pipeline.training.start import check_frozen, resolve_start
from pipeline.training.status import write_epochs
from pipeline.training.trackers import require_installed
from pipeline.training.transfer import Transfer
from pipeline.training.variants import OWN, Variant


def check_task(zoo: Zoo, training: TrainingConfig) -> Task:
    """The task. Raises InputError if it is not one, or if the encoder cannot learn it from the zoo.

    For a zoo that is not fitted yet, only its record is checked.
    """
    task = task_of(training.task, modules_named(training))
    task.check(zoo)
    for field in ("canonical_signs", "signs"):
        if getattr(training.encoder, field, False):
            require_odd_activations(zoo, f"training.encoder.{field}")
    if isinstance(training.encoder, EncoderConfig):
        training.encoder.check(zoo)
    planned = sum(shard.num_members for shard in zoo.record.shards if shard.split == "train")
    if training.sizes and max(training.sizes) > planned:
        raise InputError(
            f"training.sizes must be at most the {planned:,} members of the train split, "
            f"got {max(training.sizes):,}"
        )
    if training.batch_size > planned * training.passes:
        raise InputError(
            f"training.batch_size must be at most the {planned:,} members of the train split, "
            f"got {training.batch_size:,}"
        )
    if zoo.is_sealed and not len(zoo.members("validation")):
        raise InputError(
            f"zoo {zoo.folder} must have members with weights in its validation split, found none"
        )
    return task


def check_probe(zoo: Zoo, training: TrainingConfig, probe: ProbeConfig):
    """Raises InputError if the zoo lacks a target, or is unsuitable for the fine-tuning task."""
    zoo.require_columns(probe.targets, " to probe for")
    if probe.finetune is not None:
        check_task(zoo, training.model_copy(update={"task": probe.finetune.task}))


def claim(run: Path, record: ZooRecord, training: TrainingConfig) -> TrainingConfig:
    """Write config.json, the identity of a run; its training may change before a checkpoint exists.

    Returns the configuration, with the sha256 of the model that it starts from. Raises InputError
    if there is no such model, if `run` has another configuration, or if Ray cannot handle its path.
    """
    try:
        str(run.resolve()).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{run} cannot hold a run, because Ray only accepts paths in UTF-8: "
            "set LC_ALL=C.UTF-8 or choose another --out"
        ) from error
    training = resolve_start(training, record)
    file, content = run / "config.json", identity_of(record, training)
    require_same_run(run, record, training)
    if not file.exists() or differences(read_json(file), content):
        write_json(file, content)
    return training


def identity_of(record: ZooRecord, training: TrainingConfig) -> dict[str, Any]:
    """The content of config.json."""
    return {"zoo": record.zoo_identity(), "training": training.identity()}


def require_same_run(run: Path, record: ZooRecord, training: TrainingConfig):
    """Raises InputError if `run` has another configuration.

    Before the first checkpoint its training may differ.
    """
    file, content = run / "config.json", identity_of(record, training)
    if not file.exists():
        return
    free = {} if latest(run) else {"training": content["training"]}
    if fields := differences(read_json(file) | free, content):
        raise InputError(
            f"{run} was trained with another configuration, which differs in {'; '.join(fields)}: "
            "choose another --out or undo the change"
        )


@stage
def train(
    zoo: Location,
    run: Path,
    training: TrainingConfig,
    resources: ResourcesConfig,
    variants: Sequence[Variant] = (OWN,),
    trusted: Collection[str] = (),
) -> bool:
    """Train variants in their folders of `run`, each from its newest checkpoint.

    False if all were already trained; otherwise needs a Ray session. Code that the zoo names is
    called only if its module is one of `trusted`.
    """
    opened = Zoo.open(zoo, trusted)
    opened.require_finished()
    prepared = check_task(opened, training).prepare(opened)  # for any number of members: `sizes`
    jobs = []
    for variant in variants:
        config = variant.of(training, opened.space, prepared)
        title = variant.title(training)
        jobs.append(claim_job(opened, run, variant.folder, config, resources, title))
    return run_jobs(opened, jobs, resources)


@stage
def train_transfers(
    run: Path,
    training: TrainingConfig,
    finetune: FinetuneConfig,
    resources: ResourcesConfig,
    transfers: Sequence[Transfer],
    trusted: Collection[str] = (),
) -> bool:
    """Like `train`: fine-tune a run's encoder, and train from scratch, with some of the labels."""
    opened = Zoo.open(run / "zoo", trusted)
    num_members = Feed(opened, "train", ()).num_members
    jobs = []
    for transfer in transfers:
        config = transfer.of(run, training, finetune, num_members)
        check_task(opened, config)
        title = f"{transfer.title}, {transfer.percent}"
        jobs.append(claim_job(opened, run, transfer.folder, config, resources, title))
    return run_jobs(opened, jobs, resources)


def claim_job(
    zoo: Zoo,
    run: Path,
    folder: Path,
    training: TrainingConfig,
    resources: ResourcesConfig,
    title: str,
) -> Job:
    """Prepare `folder` in `run` for a model. Raises InputError if it cannot be trained there."""
    run, place = run / folder, place_of(training.checkpoints, folder)
    trusted = modules_named(training)
    task = task_of(training.task, trusted)
    feed = Feed.of(task, zoo, "train", training.members, training.seed, training.passes)
    prepared = task.prepare(LearnedFrom(feed))
    if not is_trained(run, training):
        require_resumable(run)
        check_batches(feed, training, resources.workers)
        require_installed(training.trackers)
        if isinstance(training.encoder, Own):
            try_encoder(training.encoder, zoo, trusted)
        check_frozen(resolve_start(training, zoo.record), zoo.space, prepared)
        warn_of_wide_axes(training, zoo.space, prepared, trusted)
    run.mkdir(parents=True, exist_ok=True)
    training = claim(run, zoo.record, training)
    if not (run / "zoo").exists():
        link_to(run / "zoo", zoo.folder)
    place_checkpoints(run, place)
    if (history := read_history(run)) is not None:
        write_epochs(run, history)  # its worker may have been killed before
    members = feed.num_batches(training.batch_size) * training.batch_size
    return Job(title, run, training, prepared, members)


def run_jobs(zoo: Zoo, jobs: Sequence[Job], resources: ResourcesConfig) -> bool:
    """Train the models that are not trained yet, with a bar for each; False if there are none."""
    waiting = [job for job in jobs if not is_trained(job.run, job.training)]
    if not waiting:
        return False
    wanted = min(resources.groups, len(waiting))
    num_groups = room_for_groups(wanted, resources.workers, resources.gpus_per_worker)
    groups = [waiting[first::num_groups] for first in range(num_groups)]
    bars, in_time = TrainingBars(groups), time_limit(resources, f"training {jobs[0].run}")

    def look():
        bars.look()
        in_time()

    try:
        launch_training(zoo, groups, resources, look)
    finally:
        bars.close()
    for job in waiting:
        tracker.get().event("model.trained", job.run)
    return True
