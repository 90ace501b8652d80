"""Nightly runs on a growing zoo: each trains from the previous encoder and compares its metric.

`OUT/zoo` is the zoo of all nights, `OUT/runs/0001`, `0002`, ... are their runs. A night is over
when its run has `night.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.progress import show_line
from flows.recipe import Recipe
from flows.stages import build
from pipeline.archive.files import list_folders, read_json
from pipeline.archive.growing import read_growing
from pipeline.archive.record import FILE
from pipeline.archive.zoo import Zoo
from pipeline.config import ZooConfig, differences
from pipeline.errors import InputError, WorkError
from pipeline.functions import modules_named
from pipeline.tasks.own import task_of
from pipeline.tasks.task import Monitor
from pipeline.training.checkpoint_folders import link_to
from pipeline.training.config import StartConfig
from pipeline.training.evaluate import read_metrics, shown, titled, write_metrics
from pipeline.zoos.build import ZooPlan, plan_members
from pipeline.zoos.growth import larger_plan, present_plan

OVER = "night.json"


@dataclass(frozen=True)
class Night:
    folder: Path
    """Folder of its run."""
    last: Path | None
    """Folder of the previous night's run."""
    recipe: Recipe
    """Its training starts from the previous night's model."""
    planned: ZooPlan


def begin(recipe: Recipe, out: Path) -> Night:
    """The unfinished night, or the next one; if nothing is new since the last one, that one again.

    Raises InputError if the zoo in `out` is not the recipe's, and as `plan_growth` does.
    """
    require_inrs(recipe)
    zoo, runs = out / "zoo", runs_in(out)
    if is_first(runs):
        planned = build.plan(recipe.zoo, zoo)
    else:
        require_same(recipe, zoo)
        planned = plan_larger(recipe, zoo, runs[-1])
    if not runs or (is_over(runs[-1]) and is_new(runs[-1], planned)):
        runs.append(folder_of(out, int(runs[-1].name) + 1 if runs else 1))
    elif is_over(runs[-1]):
        show_line("zoo", f"nothing is new since {runs[-1]}")
    folder, last = runs[-1], runs[-2] if len(runs) > 1 else None
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "zoo").is_symlink():
        link_to(folder / "zoo", zoo)
    if last is not None:
        start = StartConfig(checkpoint=last)
        training = recipe.required_training.model_copy(update={"start": start})
        recipe = recipe.model_copy(update={"training": training})
    return Night(folder, last, recipe, planned)


def upcoming(recipe: Recipe, out: Path) -> tuple[ZooPlan, Path]:
    """The zoo and the run folder of the night that `begin` would begin; nothing is written."""
    require_inrs(recipe)
    zoo, runs = out / "zoo", runs_in(out)
    if is_first(runs):
        return plan_members(recipe.zoo), folder_of(out, 1)
    require_same(recipe, zoo)
    opened, last = Zoo.open(zoo, modules_named(recipe)), runs[-1]
    views = views_to_add(recipe, zoo, last)
    larger = larger_plan(zoo, views, opened.trusted) if views else None
    is_next = larger is not None and is_over(last)
    return larger or present_plan(opened), folder_of(out, int(last.name) + is_next)


def require_inrs(recipe: Recipe):
    """Raises InputError if the zoo of a recipe with growth cannot grow."""
    if recipe.growth is not None and not isinstance(recipe.zoo, ZooConfig):
        raise InputError(
            f"growth takes a zoo of INRs, got zoo.kind {recipe.zoo.kind}: leave it out"
        )


def is_first(runs: list[Path]) -> bool:
    """Whether the night to begin is the first one, or goes on with it."""
    return not runs or (len(runs) == 1 and not is_over(runs[0]))


def folder_of(out: Path, night: int) -> Path:
    return out / "runs" / f"{night:04d}"


def is_begun(run: Path) -> bool:
    """Whether a night has begun to train and is not over."""
    return (run / "config.json").exists() and not is_over(run)


def runs_in(out: Path) -> list[Path]:
    """The folders of all nights, in order."""
    return sorted(
        out / "runs" / run.name for run in list_folders(out / "runs") if run.name.isdigit()
    )


def is_over(run: Path) -> bool:
    return (run / OVER).exists()


def is_new(run: Path, planned: ZooPlan) -> bool:
    """Whether the planned zoo differs from the one that a run was trained on."""
    known = read_json(run / "config.json")["zoo"]
    return bool(differences(known, planned.record.zoo_identity()))


def require_same(recipe: Recipe, zoo: Path):
    """Raises InputError if a zoo was not begun with this recipe."""
    record = Zoo.open(zoo).record
    views = record.grown[0].views if record.grown else record.inrs.views
    first = record.inrs.model_copy(update={"views": views})
    if fields := differences(first.identity(), recipe.zoo.identity()):
        raise InputError(
            f"{zoo} grows from another zoo than the recipe's, which differs in "
            f"{'; '.join(fields)}: choose another --out or undo the change"
        )


def plan_larger(recipe: Recipe, zoo: Path, run: Path) -> ZooPlan:
    """The larger zoo to build; the current one if it has grown for the unfinished `run` or nothing
    is new."""
    trusted, views = modules_named(recipe), views_to_add(recipe, zoo, run)
    if views and (larger := build.plan_larger(zoo, views, trusted)) is not None:
        return larger
    record = Zoo.open(zoo).record
    return build.plan_recorded(zoo / FILE, record, record.config, zoo, trusted)


def views_to_add(recipe: Recipe, zoo: Path, run: Path) -> str | None:
    """How many more INRs of each signal to fit, as `plan_growth` takes it; None if the zoo has
    grown for the unfinished `run`."""
    assert recipe.growth is not None
    if read_growing(zoo):  # interrupted: continue as planned
        return "+0"
    return None if is_begun(run) else f"+{recipe.growth.views}"


def monitor_of(recipe: Recipe) -> Monitor:
    """The metric to compare: the one that chooses the best epoch."""
    training = recipe.required_training
    return task_of(training.task, modules_named(training)).monitor


def finish(night: Night, metrics: Mapping[str, Any]):
    """End the night, once, and compare its own model's test metric with the previous night's.

    Raises WorkError if the metric that chooses the best epoch fell by more than the recipe allows.
    """
    if is_over(night.folder):
        return
    assert night.recipe.growth is not None
    max_fall = night.recipe.growth.max_fall
    monitor = monitor_of(night.recipe)
    last = read_metrics(night.last / "metrics.json") if night.last else {monitor.metric: None}
    before = last[monitor.metric]
    now = metrics[monitor.metric]
    figures = {"monitor": monitor.metric, "now": now, "before": before}
    write_metrics(night.folder / OVER, figures)
    if before is None or max_fall is None:
        return
    fell = before - now if monitor.more_is_better else now - before
    if not fell <= max_fall:  # also true for NaN
        raise WorkError(
            f"{titled(monitor.metric)} must be at most {max_fall:g} worse than the night before, "
            f"{shown(monitor.metric, before)} in {night.last}, found {shown(monitor.metric, now)}: "
            f"look at {night.folder / 'report' / 'index.html'}; the next run continues from there"
        )
