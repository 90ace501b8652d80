"""The forecast of a recipe: what there is to do, what that takes, and what is missing for it."""

import math
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from cluster.address import RequestError, require_resources
from cluster.scratch import scratch_folder
from cluster.session import is_local, ray_session
from flows.forecast.training import Cost, PlannedModel, cost_of, planned_models
from flows.forecast.zoos import PlannedZoo, SmallZoo, small_zoo
from flows.recipe import Recipe
from flows.stages.learn import require_same_run
from pipeline.archive.record import FILE
from pipeline.archive.write import require_same_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import ResourcesConfig
from pipeline.fit.adam import require_device
from pipeline.functions import modules_named
from pipeline.training.checkpoint import num_epochs
from pipeline.training.start import resolve_start
from pipeline.zoos.build import ZooPlan, plan_members

FIT_BUDGET = 2.0
"""Seconds in which members are fitted."""
AROUND = 45.0
"""Seconds by the clock that all else of a run takes: Ray, Prefect and the workers start, models are scored, the report is
drawn. As measured for `digits` on two cores that other work kept busy too."""
BYTES = 12
"""Of each parameter in a checkpoint: the weight and Adam's two moments."""


@dataclass(frozen=True)
class Part:
    """The zoo, or models that differ in their seed alone: what is left to do of it."""

    title: str
    what: str
    there: str
    """What is done already; empty: nothing."""
    bytes: int = 0
    """To be written."""
    seconds: float = 0.0
    """By the clock."""
    worker_seconds: float = 0.0
    """Of all workers together."""


@dataclass(frozen=True)
class Forecast:
    out: Path
    resources: ResourcesConfig
    parts: tuple[Part, ...]
    lacking: tuple[str, ...]
    """A sentence for each thing that is missing for it."""

    @property
    def around(self) -> float:
        """Seconds that are of no part; none where nothing is left to do."""
        return AROUND if any(part.seconds for part in self.parts) else 0.0

    @property
    def seconds(self) -> float:
        return self.around + sum(part.seconds for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def at_once(self) -> int:
        """Workers that really run at the same time."""
        return at_once(self.resources)

    @property
    def unit(self) -> str:
        return "GPU-hours" if self.resources.gpus_per_worker else "core-hours"

    def hours(self, part: Part) -> float:
        """Core-hours, or where workers have GPUs GPU-hours."""
        return part.worker_seconds / 3600 * (self.resources.gpus_per_worker or 1)


def forecast(recipe: Recipe, out: Path) -> Forecast:
    """Of `dwszoo run` into the folder `out`, or of a recipe that trains nothing of `dwszoo zoo build`.

    Takes some seconds of this machine, and writes nothing there. Raises InputError where the recipe cannot be run, where
    `out` holds another zoo or run, or where workers are to have GPUs and this machine has none to measure on.
    """
    resources, trusted = recipe.resources, modules_named(recipe)
    device = "cuda" if resources.gpus_per_worker else "cpu"
    require_device(device)
    torch.set_num_threads(1)
    plan = plan_members(recipe.zoo)
    plan.kind.prepare(device)
    with scratch_folder() as folder:
        small = small_zoo(plan.kind, folder / "zoo", trusted)
        parts = [zoo_part(plan, small, out / "zoo" if recipe.training else out, resources, device)]
        if recipe.training is not None:
            require_same_run(out, plan.record, resolve_start(recipe.training, plan.record))
            parts += model_parts(recipe, plan, small, out, device)
    lacking = (*missing_workers(resources), *missing_room(out, sum(part.bytes for part in parts)))
    return Forecast(out, resources, tuple(parts), lacking)


def at_once(resources: ResourcesConfig) -> int:
    """Workers that really run at the same time: on this machine no more than it has cores."""
    if is_local() and not resources.gpus_per_worker:
        return min(resources.workers, len(os.sched_getaffinity(0)))
    return resources.workers


def zoo_part(
    plan: ZooPlan, small: SmallZoo, zoo: Path, resources: ResourcesConfig, device: str
) -> Part:
    done = committed(zoo, plan)
    left = [shard for shard in plan.shards if shard.name not in done]
    members, every = (sum(len(shard.view) for shard in some) for some in (left, plan.shards))
    what = f"{every:,} {plan.kind.members} in {len(plan.shards):,} shards"
    there = f"{len(done):,} of {len(plan.shards):,} shards" if done else ""
    if not left:
        return Part("zoo", what, there)
    seconds = plan.kind.fit_seconds(left, device, FIT_BUDGET)
    rounds = math.ceil(len(left) / at_once(resources))
    size = sum(file.stat().st_size for file in small.folder.rglob("*") if file.is_file())
    size = size * members // len(small)
    return Part("zoo", what, there, size, seconds * rounds / len(left), seconds)


def committed(zoo: Path, plan: ZooPlan) -> Collection[str]:
    """Names of the shards that are. Raises InputError where it is another zoo."""
    if not (zoo / FILE).exists():
        return ()
    require_same_zoo(zoo, plan.record)
    return {shard.name for shard in Zoo.open(zoo).shards}


def model_parts(
    recipe: Recipe, plan: ZooPlan, small: SmallZoo, run: Path, device: str
) -> Iterator[Part]:
    costs: dict[str, Cost] = {}
    planned = PlannedZoo(plan)
    scored = sum(shard.num_members for shard in planned.shards if shard.split == "validation")
    models = planned_models(recipe, planned, small)
    for title, same in groupby(models, lambda model: model.title.partition(", seed")[0]):
        models = list(same)
        model = models[0].training.model_copy(update={"members": None, "seed": 0, "epochs": 1})
        key = model.model_dump_json()
        if key not in costs:
            costs[key] = cost_of(model, small, recipe.resources.workers, device)
        yield model_part(title, models, costs[key], scored, run, recipe.resources)


def model_part(
    title: str,
    models: Sequence[PlannedModel],
    cost: Cost,
    scored: int,
    run: Path,
    resources: ResourcesConfig,
) -> Part:
    """Of models that cost the same; `scored` members are in the validation split."""
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
    """What the cluster at RAY_ADDRESS, or this machine, lacks for all workers at once."""
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
            f"the disk of {place} has {free / 1e9:,.1f} GB free, expected at least {size / 1e9:,.1f}: "
            "make room or choose another --out"
        )
