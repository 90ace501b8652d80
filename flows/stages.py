"""The stages of a run, as plain functions. Each can be called again: what is done is found done and not repeated."""

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.progress import Progress, show_line
from flows.recipe import Recipe
from pipeline.archive.files import read_json, write_atomic, write_json
from pipeline.archive.plan import ShardPlan
from pipeline.archive.record import ZooRecord
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import pending_shards, seal_zoo, unseal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import AnyZooConfig, ImportConfig, ResourcesConfig, differences
from pipeline.errors import ArchiveError, InputError, WorkError, nearest, reason
from pipeline.location import Location, RemotePath
from pipeline.tasks import Task
from pipeline.training.checkpoint import num_epochs
from pipeline.training.config import TrainingConfig
from pipeline.training.launch import Job, is_trained
from pipeline.training.loader import Feed
from pipeline.training.probe import Reading
from pipeline.training.transfer import TRANSFERS, FinetuneConfig, Transfer
from pipeline.training.variants import OWN, Variant
from pipeline.zoos import ZooKind
from pipeline.zoos.build import ShardSummary, ZooPlan, fit_shard, plan_zoo


@dataclass(frozen=True)
class FitSummary:
    """What one call of `fit_zoo` did."""

    num_members: int
    num_failed: int
    seconds: float
    mean_quality: float
    """PSNR of INRs in dB, test accuracy of classifiers."""

    @property
    def rate(self) -> float:
        """Members/s."""
        return self.num_members / self.seconds


def plan(config: AnyZooConfig, zoo: Location) -> ZooPlan:
    """The plan of a zoo; a line says what its signals were taken as."""
    planned = plan_zoo(config, zoo)
    if planned.signals.taken:
        show_line("signals", planned.signals.taken)
    return planned


def fit_zoo(plan: ZooPlan, zoo: Location, resources: ResourcesConfig) -> FitSummary | None:
    """Fit the shards that are not committed; None where all are. Needs a Ray session where there is something to do.

    Raises WorkError that names the shards that failed, after all others are committed.
    """
    from cluster.fanout import run_tasks
    from cluster.session import is_local
    from pipeline.fit.adam import require_device

    pending = pending_shards(zoo)
    if not pending:
        return None
    kind, device = plan.kind, "cuda" if resources.gpus_per_worker else "cpu"
    if is_local():
        require_device(device)
    kind.prepare(device)
    unseal_zoo(zoo, plan.record)
    shards = [shard for shard in plan.shards if shard.name in pending]
    bar, start, errors = FitBar(type(kind), shards), time.perf_counter(), {}
    shared = (plan.record.config, zoo.resolve(), plan.signals)
    for shard, result in run_tasks(
        fit_shard,
        shards,
        shared,
        resources.workers,
        resources.gpus_per_worker,
        bar.hear,
        device=device,
    ):
        if not isinstance(result, ShardSummary):
            errors[shard.name] = result
        bar.finish(shard, result)
    bar.close()
    if errors:
        name, error = next(iter(errors.items()))
        raise WorkError(
            f"{len(errors)} of {len(shards)} shards could not be fitted and {len(shards) - len(errors)} are committed; "
            f"{name}: {reason(error)}; run the same command again to go on"
        ) from error
    return FitSummary(bar.members, bar.failed, time.perf_counter() - start, bar.mean_quality)


class FitBar:
    """The bar of a fit, over the members of shards that are finished and of those under way."""

    def __init__(self, kind: type[ZooKind], shards: list[ShardPlan]):
        self.kind = kind
        self.bar = Progress("fit", sum(len(shard.source_index) for shard in shards), kind.members)
        self.members, self.fitted, self.failed, self.quality_sum = 0, 0, 0, 0.0
        self.num_shards, self.failed_shards = len(shards), 0
        self.under_way: dict[str, int] = {}

    @property
    def mean_quality(self) -> float:
        return self.quality_sum / max(1, self.fitted)

    def hear(self, shard: ShardPlan, done: int):
        self.under_way[shard.name] = done
        self._show()

    def finish(self, shard: ShardPlan, result: ShardSummary | Exception):
        """A shard that failed is not done: the bar goes back by what was under way of it."""
        self.under_way.pop(shard.name, None)
        if isinstance(result, ShardSummary):
            self.members += len(shard.source_index)
            self.failed += result.num_failed
            self.fitted += result.num_members - result.num_failed
            self.quality_sum += result.quality_sum
        else:
            self.failed_shards += 1
        self._show()

    def _show(self):
        notes = []
        if self.fitted:
            notes.append(f"mean {self.kind.in_words(self.mean_quality)}")
        elif not self.members and not self.failed_shards:
            notes.append("the first shards are under way")
        if self.failed:
            notes.append(f"{self.failed} failed")
        if self.failed_shards:
            notes.append(f"{self.failed_shards} of {self.num_shards} shards failed")
        self.bar.update(self.members + sum(self.under_way.values()), ", ".join(notes))

    def close(self):
        self.bar.close()


def archive(zoo: Location, fitted: bool) -> Zoo:
    """Seal the zoo after a fit, or where a kill left it unsealed."""
    opened = Zoo.open(zoo)
    return seal_zoo(zoo) if fitted or not opened.is_sealed else opened


def verify(zoo: Location) -> Zoo:
    """Raises ArchiveError where the zoo is not finished or anything is wrong with it."""
    opened = Zoo.open(zoo)
    opened.require_finished()
    if problems := verify_zoo(opened):
        raise ArchiveError(f"zoo {zoo} has {len(problems)} problems: {'; '.join(problems)}")
    return opened


@contextmanager
def counting(title: str, total: int, note: str) -> Iterator[Callable[[int], None]]:
    """A bar over members, moved by calling what it gives with how many more are done."""
    bar, done = Progress(title, total, "members"), 0

    def advance(number: int):
        nonlocal done
        done += number
        bar.update(done, note)

    try:
        yield advance
    finally:
        bar.close()


def export(zoo: Location, format: str, out: Path) -> tuple[int, int]:
    """Write a zoo in the layout of another project; returns how many members have weights, and how many do not."""
    from pipeline.exchange.exporting import export_zoo

    opened = Zoo.open(zoo)
    with counting("export", len(opened), format) as advance:
        num_members = export_zoo(opened, format, out, advance)
    return num_members, len(opened) - num_members


def import_zoo(config: ImportConfig, out: Location) -> tuple[Zoo, list[str]]:
    """Import what is not committed yet, and seal; returns the zoo, and what of the source could not be read at all."""
    from pipeline.exchange.importing import import_shard, plan_import

    plan = plan_import(config, out)
    if pending := pending_shards(out):
        unseal_zoo(out, plan.record)
        with counting(
            "import", sum(len(plan.intake.shards[name]) for name in pending), config.format
        ) as advance:
            for name in pending:
                import_shard(plan, out, name)
                advance(len(plan.intake.shards[name]))
    return archive(out, fitted=bool(pending)), list(plan.source.left_out)


def merge_zoos(zoos: Sequence[Location], out: Location) -> int:
    """Merge what is not committed yet, and seal; returns the number of members."""
    from pipeline.archive.merge import merge_shard, plan_merge

    plan = plan_merge(zoos, out)
    sizes = {shard.name: shard.num_members for shard in plan.record.shards}
    if pending := pending_shards(out):
        unseal_zoo(out, plan.record)
        with counting(
            "merge", sum(sizes[name] for name in pending), f"{len(zoos)} zoos"
        ) as advance:
            for name in pending:
                advance(merge_shard(plan, out, name))
    archive(out, fitted=bool(pending))
    return sum(sizes.values())


def edit_zoo(run: Path, zoo: Location, out: Location, trusted: Collection[str] = ()) -> int:
    """Edit what is not committed yet with the best model of a run, and seal; returns the number of members."""
    from dwsnet.heads import WeightsHead
    from pipeline.archive.edit import Editor, edit_shard, plan_edit
    from pipeline.archive.files import sha256
    from pipeline.training.checkpoint import load_best, read_best
    from pipeline.training.evaluate import require_space

    trained, opened = load_best(run, trusted), Zoo.open(zoo)
    if not isinstance(trained.model, WeightsHead):
        raise InputError(
            f"{run} must be trained for a task whose outcome is networks, such as editing, to edit a zoo, "
            f"found {trained.config.task.kind}"
        )
    require_space(trained, opened)
    card = (read_best(run).folder / "model.json").read_bytes()  # it has the sha256 of the weights
    plan = plan_edit(opened, Editor(trained.model, sha256(card), str(run.resolve())), out)
    sizes = {shard.name: shard.num_members for shard in plan.record.shards}
    if pending := pending_shards(out):
        unseal_zoo(out, plan.record)
        with counting("edit", sum(sizes[name] for name in pending), str(run)) as advance:
            for name in pending:
                advance(edit_shard(plan, out, name))
    archive(out, fitted=bool(pending))
    return sum(sizes.values())


def claim(run: Path, record: ZooRecord, training: TrainingConfig) -> TrainingConfig:
    """Write config.json, the identity of a run; before the first checkpoint its training may change.

    Returns the configuration, the model that it begins from named by its sha256. Raises InputError where there is no such
    model, where `run` is of another configuration, or where Ray cannot be told its path.
    """
    from pipeline.training.checkpoint import latest
    from pipeline.training.start import resolve_start

    try:
        str(run.resolve()).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{run} cannot hold a run: Ray takes paths in UTF-8 alone: set LC_ALL=C.UTF-8 or choose another --out"
        ) from error
    training = resolve_start(training, record)
    file = run / "config.json"
    content = {"zoo": record.zoo_identity(), "training": training.identity()}
    if not file.exists():
        write_json(file, content)
        return training
    written = read_json(file)
    free = {} if latest(run) else {"training": content["training"]}
    if fields := differences(written | free, content):
        raise InputError(
            f"{run} was trained with another configuration, which differs in {'; '.join(fields)}: "
            "choose another --out or undo the change"
        )
    if differences(written, content):
        write_json(file, content)
    return training


def check_task(zoo: Zoo, training: TrainingConfig) -> Task:
    """The task, where the zoo can teach it. Raises InputError where it cannot, or where the task is none.

    Of a zoo that is not fitted yet, what its record says is looked at.
    """
    from pipeline.functions import modules_named
    from pipeline.training.models import task_of

    task = task_of(training.task, modules_named(training))
    names = zoo.record.schema.names
    for name in task.columns:
        if name not in names:
            raise InputError(
                f"the catalog of zoo {zoo.folder} has no column {name!r} for {training.task.kind} to learn from: "
                f"its columns are {', '.join(names)}{nearest(name, names)}"
            )
    task.check(zoo)
    planned = sum(shard.num_members for shard in zoo.record.shards if shard.split == "train")
    if training.sizes and max(training.sizes) > planned:
        raise InputError(
            f"training.sizes must be at most the {planned:,} members of the train split, got {max(training.sizes):,}"
        )
    if zoo.is_sealed and not len(zoo.members("validation")):
        raise InputError(
            f"zoo {zoo.folder} must have members with weights in its validation split, found none"
        )
    return task


def train(
    zoo: Location,
    run: Path,
    training: TrainingConfig,
    resources: ResourcesConfig,
    variants: Sequence[Variant] = (OWN,),
) -> bool:
    """Train variants into their folders in `run`, each from its newest checkpoint on, in one launch of workers.

    False where all were trained already. Needs a Ray session if not.
    """
    opened = Zoo.open(zoo)
    opened.require_finished()
    prepared = check_task(opened, training).prepare(opened)
    jobs = [
        claim_job(
            opened,
            run / variant.folder,
            variant.of(training, opened.space, prepared),
            prepared,
            resources,
            variant.title(training),
        )
        for variant in variants
    ]
    return run_jobs(zoo, jobs, resources)


def train_transfers(
    run: Path,
    training: TrainingConfig,
    finetune: FinetuneConfig,
    resources: ResourcesConfig,
    transfers: Sequence[Transfer],
) -> bool:
    """Train on from the encoder of a run, and from scratch, by some of the labels; as `train`."""
    opened = Zoo.open(run / "zoo")
    num_members = Feed(opened, "train", ()).num_members
    jobs = []
    for transfer in transfers:
        config = transfer.of(run, training, finetune, num_members)
        prepared = check_task(opened, config).prepare(opened)
        title = f"{transfer.title}, {transfer.percent}"
        folder = run / transfer.folder
        jobs.append(claim_job(opened, folder, config, prepared, resources, title))
    return run_jobs(opened.folder, jobs, resources)


def claim_job(
    zoo: Zoo,
    run: Path,
    training: TrainingConfig,
    prepared: dict[str, Any],
    resources: ResourcesConfig,
    title: str,
) -> Job:
    """Make `run` the folder of a model. Raises InputError where it cannot be trained so, or not there."""
    from pipeline.functions import modules_named
    from pipeline.training.launch import check_batches
    from pipeline.training.models import task_of, warn_of_wide_axes

    trusted = modules_named(training)
    task = task_of(training.task, trusted)
    feed = Feed.of(task, zoo, "train", training.members, training.seed, training.passes)
    if not is_trained(run, training):
        check_batches(feed, training, resources.workers)
        warn_of_wide_axes(training, zoo.space, prepared, trusted)
    run.mkdir(parents=True, exist_ok=True)
    training = claim(run, zoo.record, training)
    if not (run / "zoo").exists():
        link_zoo(run / "zoo", zoo.folder)
    members = feed.num_batches(training.batch_size) * training.batch_size
    return Job(title, run, training, prepared, members)


def run_jobs(zoo: Location, jobs: Sequence[Job], resources: ResourcesConfig) -> bool:
    """Train those that are not trained, with a bar for each; False where there are none."""
    from pipeline.training.launch import launch_training

    waiting = [job for job in jobs if not is_trained(job.run, job.training)]
    if not waiting:
        return False
    bars = TrainingBars(waiting)
    try:
        launch_training(zoo, waiting, resources, bars.look)
    finally:
        bars.close()
    return True


class TrainingBars:
    """The bars of models that are trained one after another."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs = list(jobs)
        self.bar = self._bar()

    def _bar(self) -> Progress:
        job = self.jobs[0]
        per_epoch = job.members_per_epoch
        total, done = job.training.epochs * per_epoch, num_epochs(job.run) * per_epoch
        return Progress(job.title, total, "models", done)

    def look(self):
        """Bring them up to what the workers wrote; raises WorkError where Ray is gone."""
        from cluster.session import require_ray

        require_ray()
        while True:
            job = self.jobs[0]
            show_training(self.bar, job.run, job.training.epochs, job.members_per_epoch)
            if len(self.jobs) == 1 or not (
                is_trained(job.run, job.training) or is_under_way(self.jobs[1].run)
            ):
                return
            self.close()
            self.jobs.pop(0)
            self.bar = self._bar()

    def close(self):
        self.bar.close()


def is_under_way(run: Path) -> bool:
    """Whether workers have said how far its training is, since they were launched."""
    return (run / ".progress.json").exists()


def probe(
    run: Path,
    zoo: Location | None = None,
    targets: Sequence[str] = (),
    trusted: Collection[str] = (),
) -> list[Reading]:
    """What linear models read from the encoder of a run's best checkpoint, by default classes and facts of the signals.

    On the run's own zoo, its transfers come along, and probe.json is written for the report.
    """
    from pipeline.training.checkpoint import load_best
    from pipeline.training.probe import probe as read

    opened = Zoo.open(zoo or run / "zoo")
    seed = read_json(run / "config.json")["training"]["seed"]
    readings = read(load_best(run, trusted), opened, targets, seed)
    if zoo is None:
        num_members = Feed(opened, "train", ()).num_members
        readings += [
            transfer.reading(read_json(file), num_members)
            for transfer in TRANSFERS
            if (file := run / transfer.folder / "metrics.json").exists()
        ]
        write_json(run / "probe.json", [asdict(reading) for reading in readings])
    return readings


def link_zoo(link: Path, zoo: Location):
    """A symbolic link, or for a zoo that is not on this machine a file with its URI, which `locate` follows."""
    if isinstance(zoo, RemotePath):
        write_atomic(link, f"{zoo}\n".encode())
    else:
        link.symlink_to(os.path.relpath(zoo, link.parent))


def show_training(bar: Progress, run: Path, epochs: int, per_epoch: int):
    """Bring the bar up to what the workers wrote into the run folder."""
    from pipeline.training.checkpoint import read_history
    from pipeline.training.evaluate import shown, titled
    from pipeline.training.loop import read_pulse

    history, pulse = read_history(run), read_pulse(run)
    num_epochs = len(history) if history else 0
    done = num_epochs * per_epoch
    note = f"epoch {num_epochs}/{epochs}" if history or pulse else "starting the workers"
    if history:
        newest, metric = history.newest, history.monitor.metric
        value = shown(metric, history.monitored(newest))
        note += f", loss {newest.train_loss:.3f}, validation {titled(metric)} {value}"
    if pulse is not None and pulse.members > done:
        done = pulse.members
        note += f", now loss {pulse.loss:.3f} at {pulse.models_per_second:,.0f} models/s"
    elif history:
        note += f", {history.newest.models_per_second:,.0f} models/s"
    bar.update(done, note)


def evaluate(run: Path, split: str, trusted: Collection[str] = ()) -> dict[str, Any]:
    """Score the best checkpoint of a run on a split of its zoo; writes metrics.json, or metrics-SPLIT.json for other splits."""
    from pipeline.report.models import read_training
    from pipeline.training import evaluate as evaluation
    from pipeline.training.checkpoint import load_best

    trained, training = load_best(run, trusted), read_training(run)
    metrics, _ = evaluation.evaluate(
        trained, Zoo.open(run / "zoo"), split, training.members, training.seed
    )
    write_json(run / ("metrics.json" if split == "test" else f"metrics-{split}.json"), metrics)
    return metrics


def scored(run: Path, trusted: Collection[str] = ()) -> dict[str, Any]:
    """The scores of the best checkpoint on the test split, taken again where metrics.json is older than the newest one."""
    from pipeline.training.checkpoint import latest

    file, newest = run / "metrics.json", latest(run)
    metrics = read_json(file) if newest is not None and is_newer(file, newest) else {}
    is_whole = metrics.get("split") == "test" and "train" in metrics
    return metrics if is_whole else evaluate(run, "test", trusted)


def boost(run: Path, trusted: Collection[str] = ()):
    """Score gradient boosting on what the model of a run was trained on, into boosted.json; once, where the task has it."""
    from pipeline.report.models import read_training
    from pipeline.training.boosting import FILE, boosted_metrics
    from pipeline.training.checkpoint import latest, load_best

    if latest(run) is not None and not (run / FILE).exists():
        trained, training = load_best(run, trusted), read_training(run)
        metrics = boosted_metrics(trained, Zoo.open(run / "zoo"), training.members, training.seed)
        if metrics is not None:
            write_json(run / FILE, metrics)


def report(run: Path, trusted: Collection[str] = ()) -> Path:
    """Score what was trained in a run, if need be, and draw the report; returns the page."""
    from pipeline.report.page import write_report
    from pipeline.training.checkpoint import latest
    from pipeline.training.variants import all_folders_in, seeds_in, sizes_in

    for folder in all_folders_in(run):
        if folder == run or latest(folder) is not None:
            scored(folder, trusted)
    for size in (run, *sizes_in(run).values()):
        for folder in seeds_in(size):
            boost(folder, trusted)
    write_report(run, trusted)
    return run / "report" / "index.html"


def is_newer(output: Path, *inputs: Path) -> bool:
    """As make has it: an output that is there and no older than what it was made from is done."""
    return output.exists() and all(
        output.stat().st_mtime_ns >= path.stat().st_mtime_ns for path in inputs
    )


def default_folder(name: str, recipe: Recipe) -> Path:
    """runs/NAME-FINGERPRINT, with the stem of a file or the function of package.module:function."""
    return Path("runs") / f"{Path(name.rpartition(':')[2]).stem}-{recipe.fingerprint()}"
