"""The flow behind `dwszoo run`: plan, fit, archive, verify, train, baseline, evaluate, report.

One Prefect task is one stage; inside a stage plain Ray tasks do the shards. Stages keep their state in files, not in
Prefect, so the same run goes on after any interruption, on any Prefect server.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.runtime import deployment
from prefect.states import Cancelled

from cluster.session import ray_session
from flows.overrides import resolve_training
from flows.recipe import Recipe
from flows.stages import assess, build, learn
from pipeline.archive.files import exclusive, write_json
from pipeline.archive.write import pending_shards
from pipeline.archive.zoo import Zoo
from pipeline.errors import DivergenceError, InUseError
from pipeline.functions import modules_named
from pipeline.training.config import FinetuneConfig
from pipeline.training.launch import is_trained
from pipeline.training.transfer import TRANSFERS, Transfer
from pipeline.training.variants import Variant, all_folders_in, variants
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
    return build.plan(recipe.zoo, run / "zoo")


@stage
def fit(plan: ZooPlan, recipe: Recipe, run: Path) -> bool:
    """Whether there was anything to fit; the figures of the fit are kept in fit.json for the report."""
    summary = build.fit_zoo(plan, run / "zoo", recipe.resources)
    if summary is not None:
        write_json(run / "fit.json", asdict(summary) | {"workers": recipe.resources.workers})
    return summary is not None


@stage
def archive(run: Path, fitted: bool):
    build.archive(run / "zoo", fitted)


@stage
def verify(run: Path):
    build.verify(run / "zoo")


@stage
def train(run: Path, recipe: Recipe, models: Sequence[Variant]) -> bool:
    trusted = modules_named(recipe)
    return learn.train(run / "zoo", run, recipe.training, recipe.resources, models, trusted)


@stage
def train_transfers(
    run: Path, recipe: Recipe, finetune: FinetuneConfig, transfers: Sequence[Transfer]
) -> bool:
    trusted = modules_named(recipe)
    return learn.train_transfers(
        run, recipe.training, finetune, recipe.resources, transfers, trusted
    )


@stage
def probe(run: Path, targets: Sequence[str], trusted: Collection[str]):
    made_from = [run / "metrics.json", *sorted(run.glob("transfer/*/*/metrics.json"))]
    if not assess.is_newer(run / "probe.json", *made_from):
        assess.probe(run, targets=targets, trusted=trusted)


@stage
def evaluate(folder: Path, trusted: Collection[str]) -> dict[str, Any]:
    return assess.scored(folder, trusted)


@stage
def report(run: Path, trusted: Collection[str]) -> Path:
    page = run / "report" / "index.html"
    made_from = [folder / "metrics.json" for folder in all_folders_in(run)]
    made_from += [run / "zoo" / "statistics.json", *run.glob("probe.json")]
    is_drawn = assess.is_newer(page, *made_from)
    return page if is_drawn else assess.report(run, trusted)


def run_recipe(recipe: str, settings: Sequence[str], out: Path, tracked: bool) -> dict[str, Any]:
    """`run_flow`, which Prefect's server sees where it is `tracked`.

    The server may go away: the work does not need it.
    """
    if tracked:
        try:
            return run_flow(recipe, settings, out)
        except httpx.HTTPError as error:
            logger.warning(
                "Prefect's server does not answer any more (%s): the run goes on without it", error
            )
    return run_flow.fn(recipe, settings, out)


@flow(name="run", flow_run_name="{out}", persist_result=False)
def run_flow(recipe: str, settings: Sequence[str], out: Path) -> Any:
    """Builds a zoo, trains on it, evaluates and reports, into one folder; goes on from what is there.

    Args:
        recipe: The name of a recipe, a TOML or JSON file, or package.module:function.
        settings: Fields of the recipe that are overridden, such as zoo.views=4.
        out: The folder of the run. A scheduled run is skipped where another one is at work in it.
    """
    resolved = resolve_training(recipe, settings)
    try:
        with exclusive(out):
            return run_stages(resolved, out)
    except InUseError as error:
        if deployment.id is None:
            raise
        return Cancelled(message=str(error))


def run_stages(recipe: Recipe, run: Path) -> dict[str, Any]:
    """The whole job into the folder `run`; returns the test metrics of each model, and the report."""
    training, models = recipe.training, list(variants(recipe.training))
    finetune = recipe.probe and recipe.probe.finetune
    transfers = TRANSFERS if finetune else ()
    trusted = modules_named(recipe)
    planned = plan(recipe, run)
    learn.check_task(Zoo.open(run / "zoo", trusted), training)
    learn.claim(run, planned.record, training)
    needs_ray = bool(pending_shards(run / "zoo")) or not all(
        is_trained(run / model.folder, config)
        for config, of in ((training, models), (finetune, transfers))
        for model in of
    )
    resources = recipe.resources
    with ray_session(
        resources.workers, resources.gpus_per_worker, needs_ray, resources.fewest, folder=run
    ):
        fitted = fit(planned, recipe, run)
        archive(run, fitted)
        verify(run)
        try:
            train(run, recipe, models)
        except DivergenceError as error:
            if not is_trained(run, training):
                raise
            raise DivergenceError(
                f"{error}; {assess.report(run, trusted)} reports what was trained beside it"
            ) from error
        if transfers:
            train_transfers(run, recipe, finetune, transfers)
    metrics = {model: evaluate(run / model.folder, trusted) for model in models}
    for transfer in transfers:
        evaluate(run / transfer.folder, trusted)
    if recipe.probe is not None:
        probe(run, recipe.probe.targets, trusted)
    return {"metrics": metrics, "report": report(run, trusted)}
