"""Stages that plan, fit, archive and verify a zoo."""

import time
from collections.abc import Collection
from dataclasses import dataclass

from cluster.fanout import run_tasks
from cluster.session import is_local
from flows.bars import FitBar
from flows.progress import show_line
from flows.stages.session import time_limit
from flows.tracker import stage, tracker
from pipeline.archive.growing import read_growing
from pipeline.archive.record import ZooRecord
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import pending_shards, seal_zoo, unseal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import AnyZooConfig, ResourcesConfig
from pipeline.errors import ArchiveError, WorkError, reason
from pipeline.fit.adam import require_device
from pipeline.location import Location
from pipeline.zoos.build import ShardSummary, ZooPlan, fit_shard, plan_zoo
from pipeline.zoos.growth import plan_again, plan_growth


@dataclass(frozen=True)
class FitSummary:
    """The result of one call of `fit_zoo`."""

    num_members: int
    num_failed: int
    seconds: float
    mean_quality: float
    """PSNR of INRs in dB, test accuracy of classifiers."""

    @property
    def rate(self) -> float:
        """Members/s."""
        return self.num_members / self.seconds


@stage
def plan(config: AnyZooConfig, zoo: Location) -> ZooPlan:
    """The plan of a zoo; prints a line about how its signals were read."""
    return shown(plan_zoo(config, zoo))


@stage
def plan_recorded(
    file: Location,
    record: ZooRecord,
    config: AnyZooConfig,
    zoo: Location,
    trusted: Collection[str],
) -> ZooPlan:
    """The plan of the zoo whose zoo.json is `file`; prints the same line."""
    return shown(plan_again(file, record, config, zoo, trusted))


@stage
def plan_larger(zoo: Location, views: str, trusted: Collection[str] = ()) -> ZooPlan | None:
    """The plan for growing a zoo; None if there is nothing to add. Prints the same line."""
    planned = plan_growth(zoo, views, trusted)
    return planned and shown(planned)


def shown(planned: ZooPlan) -> ZooPlan:
    if planned.signals.taken:
        show_line("signals", planned.signals.taken)
    return planned


@stage
def fit_zoo(plan: ZooPlan, zoo: Location, resources: ResourcesConfig) -> FitSummary | None:
    """Fit the shards that are not committed; None if there are none. Otherwise needs a Ray session.

    Raises WorkError if shards failed, after all others are committed.
    """
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
        bar.advance,
        time_limit(resources, f"fitting {zoo}"),
        device=device,
    ):
        if not isinstance(result, ShardSummary):
            errors[shard.name] = result
        bar.finish(shard, result)
    bar.close()
    if errors:
        name, error = next(iter(errors.items()))
        raise WorkError(
            f"{len(errors)} of {len(shards)} shards could not be fitted and "
            f"{len(shards) - len(errors)} are committed; {name}: {reason(error)}; run the same "
            "command again to continue"
        ) from error
    return FitSummary(bar.members, bar.failed, time.perf_counter() - start, bar.mean_quality)


def finish(zoo: Location, fitted: bool) -> Zoo:
    """Archive and verify a zoo: the last steps of everything that makes one. Raises as `verify`."""
    archive(zoo, fitted)
    return verify(zoo)


@stage
def archive(zoo: Location, fitted: bool) -> Zoo:
    """Seal the zoo after a fit, or if a kill left it unsealed or in its state before a growth."""
    opened = Zoo.open(zoo)
    if opened.is_sealed and not fitted and read_growing(zoo) is None:
        return opened
    sealed = seal_zoo(zoo)
    tracker.get().event("zoo.sealed", zoo)
    return sealed


@stage
def verify(zoo: Location) -> Zoo:
    """Check a zoo. Raises ArchiveError if it is not finished or anything is wrong with it."""
    opened = Zoo.open(zoo)
    opened.require_finished()
    if problems := verify_zoo(opened):
        raise ArchiveError(f"zoo {zoo} has {len(problems)} problems: {'; '.join(problems)}")
    return opened
