"""Progress bars of long stages: fitting, copying and training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.essential import require_ray
from flows.progress import Progress
from pipeline.archive.plan import ShardPlan
from pipeline.training.checkpoint import num_epochs, read_history
from pipeline.training.evaluate import shown, titled
from pipeline.training.launch import Job, is_trained
from pipeline.training.status import read_status
from pipeline.zoos import ZooKind
from pipeline.zoos.build import ShardSummary


@contextmanager
def counting(title: str, total: int, note: str) -> Iterator[Callable[[int], None]]:
    """A bar over members; yields a function to call with the number of further members done."""
    bar, done = Progress(title, total, "members"), 0

    def advance(number: int):
        nonlocal done
        done += number
        bar.update(done, note)

    try:
        yield advance
    finally:
        bar.close()


class FitBar:
    """The bar of a fit, over the members of finished and running shards."""

    def __init__(self, kind: type[ZooKind], shards: list[ShardPlan]):
        self.kind = kind
        self.bar = Progress("fit", sum(len(shard.source_index) for shard in shards), kind.members)
        self.members, self.fitted, self.failed, self.quality_sum = 0, 0, 0, 0.0
        self.num_shards, self.failed_shards = len(shards), 0
        self.under_way: dict[str, int] = {}

    @property
    def mean_quality(self) -> float:
        return self.quality_sum / max(1, self.fitted)

    def advance(self, shard: ShardPlan, done: int):
        self.under_way[shard.name] = done
        self._show()

    def finish(self, shard: ShardPlan, result: ShardSummary | Exception):
        """A shard finished. If it failed, the bar goes back by the members done in it."""
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


class TrainingBars:
    """The bars of models that are trained at the same time, one per group of workers."""

    def __init__(self, groups: Sequence[Sequence[Job]]):
        self.groups = [GroupBar(jobs) for jobs in groups]

    def look(self):
        """Update the bars from the workers' files. Raises ConnectionError if Ray is gone."""
        require_ray()
        for group in self.groups:
            group.look()

    def close(self):
        for group in self.groups:
            group.close()


class GroupBar:
    """The bar of the model that a group is training."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs = list(jobs)
        self.bar = self._bar()

    def _bar(self) -> Progress:
        job = self.jobs[0]
        per_epoch = job.members_per_epoch
        total, done = job.training.epochs * per_epoch, num_epochs(job.run) * per_epoch
        return Progress(job.title, total, "models", done)

    def look(self):
        while True:
            job, *others = self.jobs
            has_ended = is_trained(job.run, job.training) or (
                others and is_under_way(others[0].run)
            )
            show_training(self.bar, job.run, job.training.epochs, job.members_per_epoch)
            if not others or not has_ended:
                return
            self.close()
            self.jobs.pop(0)
            self.bar = self._bar()

    def close(self):
        self.bar.close()


def is_under_way(run: Path) -> bool:
    """Whether workers have reported progress of a run since they were launched."""
    return (run / ".progress.json").exists()


def show_training(bar: Progress, run: Path, epochs: int, per_epoch: int):
    """Update the bar from the workers' files in the run folder."""
    history, status = read_history(run), read_status(run)
    num_epochs = len(history) if history else 0
    done = num_epochs * per_epoch
    note = f"epoch {num_epochs}/{epochs}" if history or status else "starting the workers"
    if history:
        newest, metric = history.newest, history.monitor.metric
        value = shown(metric, history.monitored(newest))
        note += f", loss {newest.train_loss:.3f}, validation {titled(metric)} {value}"
    if status is not None and status.members > done:
        done = status.members
        note += f", now loss {status.loss:.3f} at {status.models_per_second:,.0f} models/s"
    elif history:
        note += f", {history.newest.models_per_second:,.0f} models/s"
    bar.update(done, note)
