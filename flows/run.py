"""The flow behind `dwszoo run`: plan, fit, archive, verify, train, baseline, evaluate, report.

One Prefect task is one stage; inside a stage plain Ray tasks do the shards. Stages keep their state in files, not in
Prefect, so the same run goes on after any interruption, on any Prefect server.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext

from cluster.session import ray_session
from flows import stages
from pipeline.archive.files import write_json
from pipeline.archive.write import pending_shards
from pipeline.config import Recipe, TrainingConfig
from pipeline.errors import DivergenceError
from pipeline.zoos.build import ZooPlan

logger = logging.getLogger(__name__)


def stage(function: Callable[..., Any]) -> Callable[..., Any]:
    """A Prefect task in a flow run, the plain function outside one.

    It is run anew each time: what is done already, the stage finds out from files.
    """
    tracked = task(function, cache_policy=NO_CACHE, persist_result=False)

    @wraps(function)
    def run(*arguments: Any) -> Any:
        return (tracked if FlowRunContext.get() else function)(*arguments)

    return run


@stage
def plan(recipe: Recipe, run: Path) -> ZooPlan:
    return stages.plan(recipe.zoo, run / "zoo")


@stage
def fit(plan: ZooPlan, recipe: Recipe, run: Path) -> bool:
    """Whether there was anything to fit; the figures of the fit are kept in fit.json for the report."""
    summary = stages.fit_zoo(plan, run / "zoo", recipe.resources)
    if summary is not None:
        write_json(run / "fit.json", asdict(summary) | {"workers": recipe.resources.workers})
    return summary is not None


@stage
def archive(run: Path, fitted: bool):
    stages.archive(run / "zoo", fitted)


@stage
def verify(run: Path):
    stages.verify(run / "zoo")


@stage
def train(run: Path, folder: Path, training: TrainingConfig, recipe: Recipe) -> bool:
    return stages.train(run / "zoo", folder, training, recipe.resources, training.model.kind)


@stage
def evaluate(folder: Path) -> dict[str, Any]:
    return stages.test_metrics(folder)


@stage
def report(run: Path) -> Path:
    page = run / "report" / "index.html"
    made_from = (
        run / "metrics.json",
        run / "baseline" / "metrics.json",
        run / "zoo" / "statistics.json",
    )
    return page if stages.is_newer(page, *made_from) else stages.report(run)


def run_recipe(recipe: Recipe, run: Path, tracked: bool) -> dict[str, Any]:
    """The whole job into the folder `run`; returns the test metrics of the DWSNet and of the flat baseline.

    Where it is `tracked`, Prefect's server sees it. The server may go away: the work does not need it.
    """
    if tracked:
        try:
            return run_flow(recipe, run)
        except httpx.HTTPError as error:
            logger.warning(
                "Prefect's server does not answer any more (%s): the run goes on without it", error
            )
    return run_flow.fn(recipe, run)


@flow(name="dwszoo-run", persist_result=False)
def run_flow(recipe: Recipe, run: Path) -> dict[str, Any]:
    from pipeline.tasks.classification import require_class_names
    from pipeline.training.launch import is_trained

    runs = {run: recipe.training, run / "baseline": stages.baseline_of(recipe.training)}
    planned = plan(recipe, run)
    require_class_names(planned.record, run / "zoo")
    stages.claim(run, planned.record, recipe.training)
    needs_ray = bool(pending_shards(run / "zoo")) or not all(
        is_trained(*item) for item in runs.items()
    )
    with ray_session(recipe.resources.workers, recipe.resources.gpus_per_worker, start=needs_ray):
        fitted = fit(planned, recipe, run)
        archive(run, fitted)
        verify(run)
        for folder, training in runs.items():
            try:
                train(run, folder, training, recipe)
            except DivergenceError as error:
                if folder == run:
                    raise
                raise DivergenceError(
                    f"{error}; {stages.report(run)} reports what was trained before that"
                ) from error
    metrics = {
        name: evaluate(folder) for name, folder in zip(("dwsnet", "baseline"), runs, strict=True)
    }
    page = report(run)
    return metrics | {"report": page}
