"""The forecast of a recipe: remaining work, its cost, and missing resources."""

import math
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from cluster.address import RequestError, num_groups, require_resources
from cluster.scratch import scratch_folder
from cluster.session import is_local, ray_session
from flows.forecast.training import Cost, PlannedModel, cost_of, planned_models
from flows.forecast.zoos import PlannedZoo, SmallZoo, small_zoo
from flows.nightly import upcoming
from flows.recipe import Recipe
from flows.stages.learn import require_same_run
from pipeline.archive.record import FILE
from pipeline.archive.write import require_same_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import ResourcesConfig
from pipeline.errors import InputError
from pipeline.functions import modules_named
from pipeline.training.checkpoint import num_epochs
from pipeline.training.start import resolve_start
from pipeline.zoos.build import ZooPlan, plan_members

FIT_BUDGET = 2.0
"""Seconds spent on fitting members."""
AROUND = 45.0
"""Wall-clock seconds of the rest of a run: starting Ray, Prefect and the workers, scoring models,
drawing the report. Measured for `digits` on two cores that were also busy with other work."""
BYTES = 12
"""Bytes per parameter in a checkpoint: the weight and Adam's two moments."""


@dataclass(frozen=True)
class Part:
    """The remaining work on the zoo, or on models that differ only in their seed."""

    title: str
    what: str
    there: str
    """What is already done; empty: nothing."""
    bytes: int = 0
    """Bytes to write."""
    seconds: float = 0.0
    """Wall-clock time."""
    worker_seconds: float = 0.0
    """Time of all workers together."""


@dataclass(frozen=True)
class Forecast:
    out: Path
    resources: ResourcesConfig
    parts: tuple[Part, ...]
    lacking: tuple[str, ...]
    """A sentence for each missing resource."""

    @property
    def around(self) -> float:
        """Seconds that belong to no part; 0 if nothing is left to do."""
        return AROUND if any(part.seconds for part in self.parts) else 0.0

    @property
    def groups(self) -> int:
        """Models that train at the same time; a cluster is taken to have room for all."""
        resources = self.resources
        if not is_local():
            return resources.groups
        cores, gpus = len(os.sched_getaffinity(0)), torch.cuda.device_count()
        size = resources.workers, resources.gpus_per_worker
        return num_groups(resources.groups, *size, CPU=cores, GPU=gpus)

    @property
    def seconds(self) -> float:
        zoo, *models = (part.seconds for part in self.parts)
        return self.around + zoo + max(sum(models) / self.groups, *models, 0.0)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def at_once(self) -> int:
        """Workers that run at the same time."""
        return at_once(self.resources)

    @property
    def unit(self) -> str:
        return "GPU-hours" if self.resources.gpus_per_worker else "core-hours"

    def hours(self, part: Part) -> float:
        """Core-hours or, if workers have GPUs, GPU-hours of a part."""
        return part.worker_seconds / 3600 * (self.resources.gpus_per_worker or 1)


def forecast(recipe: Recipe, out: Path) -> Forecast:
    """The forecast of `dwszoo run` or, for a recipe without training, of `dwszoo zoo build`.

    Measures for some seconds on this machine, and writes nothing to `out`. Raises InputError if the
    recipe cannot be run, if `out` holds another zoo or run, or if workers need GPUs and this
    machine has none to measure on.
    """
    resources, trusted = recipe.resources, modules_named(recipe)
    device = "cuda" if resources.gpus_per_worker else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"plan measures on a GPU for workers that have one, but PyTorch {torch.__version__} "
            "finds none here: plan where the workers will be, or without --num-gpus"
        )
    torch.set_num_threads(1)
    plan, run = (plan_members(recipe.zoo), out) if recipe.growth is None else upcoming(recipe, out)
    plan.kind.prepare(device)
    with scratch_folder() as folder:
        small = small_zoo(plan.kind, folder / "zoo", trusted)
        zoo = out / "zoo" if recipe.training else out
        done = committed(zoo, plan, grows=recipe.growth is not None)
        parts = [zoo_part(plan, small, done, resources, device)]
        if recipe.training is not None:
            require_same_run(run, plan.record, resolve_start(recipe.training, plan.record))
            parts += model_parts(recipe, plan, small, run, device)
    lacking = (*missing_workers(resources), *missing_room(out, sum(part.bytes for part in parts)))
    return Forecast(out, resources, tuple(parts), lacking)


def at_once(resources: ResourcesConfig) -> int:
    """Workers that run at the same time: on this machine at most its number of cores."""
    if is_local() and not resources.gpus_per_worker:
        return min(resources.workers, len(os.sched_getaffinity(0)))
    return resources.workers


def zoo_part(
    plan: ZooPlan,
    small: SmallZoo,
    done: Collection[str],
    resources: ResourcesConfig,
    device: str,
) -> Part:
    """The part for a zoo of which these shards are `done`."""
    left = [shard for shard in plan.shards if shard.name not in done]
    members, every = (sum(len(shard.view) for shard in some) for some in (left, plan.shards))
    what = f"{every:,} {plan.kind.members} in {len(plan.shards):,} shards"
    there = f"{len(done):,} of {len(plan.shards):,} shards" if done else ""
    if not left:
        return Part("zoo", what, there)
    seconds = plan.kind.fit_seconds(left, device, FIT_BUDGET)
    rounds = math.ceil(len(left) / at_once(resources))
    files = Path(str(small.folder)).rglob("*")
    size = sum(file.stat().st_size for file in files if file.is_file())
    size = size * members // len(small)
    return Part("zoo", what, there, size, seconds * rounds / len(left), seconds)


def committed(zoo: Path, plan: ZooPlan, grows: bool) -> Collection[str]:
    """Names of the committed shards. Raises InputError if the folder has another zoo, and not a
    smaller one that grows."""
    if not (zoo / FILE).exists():
        return ()
    if not grows:
        require_same_zoo(zoo, plan.record)
    return {shard.name for shard in Zoo.open(zoo).shards}


def model_parts(
    recipe: Recipe, plan: ZooPlan, small: SmallZoo, run: Path, device: str
) -> Iterator[Part]:
    costs: dict[str, Cost] = {}
    planned = PlannedZoo(plan)
    scored = sum(shard.num_members for shard in planned.shards if shard.split == "validation")
    models = planned_models(recipe, planned, small)
    for title, alike in groupby(models, lambda model: model.title.partition(", seed")[0]):
        same = list(alike)
        model = same[0].training.model_copy(update={"members": None, "seed": 0, "epochs": 1})
        key = model.model_dump_json()
        if key not in costs:
            costs[key] = cost_of(model, small, recipe.resources.workers, device)
        yield model_part(title, same, costs[key], scored, run, recipe.resources)


def model_part(
    title: str,
    models: Sequence[PlannedModel],
    cost: Cost,
    scored: int,
    run: Path,
    resources: ResourcesConfig,
) -> Part:
    """The part for models of equal cost; `scored` members are in the validation split."""
    training, steps = models[0].training, models[0].steps
    epochs = [min(training.epochs, num_epochs(run / model.folder)) for model in models]
    left = len(models) * training.epochs - sum(epochs)
    seeds = f"{len(models)} seeds of " if len(models) > 1 else ""
    what = (
        f"{seeds}{training.epochs} epochs of {steps:,} steps of {training.batch_size}, "
        f"{cost.num_parameters:,} parameters"
    )
    there = f"{sum(epochs)} of {len(models) * training.epochs} epochs" if sum(epochs) else ""
    workers = resources.workers
    of_epoch = steps * cost.step + math.ceil(scored / workers) * cost.score
    checkpoints = min(left, len(models)) * (training.checkpoints_kept + 1)
    return Part(
        title,
        what,
        there,
        checkpoints * BYTES * cost.num_parameters,
        left * of_epoch * workers / at_once(resources),
        left * of_epoch * workers,
    )


def missing_workers(resources: ResourcesConfig) -> Iterator[str]:
    """What the cluster at RAY_ADDRESS, or this machine, lacks to run all workers at once."""
    size = resources.workers, resources.gpus_per_worker
    try:
        if is_local():
            gpus = torch.cuda.device_count()
            require_resources("this machine", *size, CPU=resources.workers, GPU=gpus)
        else:
            with ray_session(*size, fewest=resources.fewest):
                pass
    except (RequestError, ConnectionError) as error:
        yield str(error)


def missing_room(out: Path, size: int) -> Iterator[str]:
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < size:
        yield (
            f"the disk of {place} has {free / 1e9:,.1f} GB free, expected at least "
            f"{size / 1e9:,.1f}: make room or choose another --out"
        )
