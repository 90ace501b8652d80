"""The work of `dwszoo run`: plan, fit, archive, verify, train with baselines, evaluate, report.

Its state is in files, not in Prefect: a run continues after any interruption, on any Prefect
server.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows import nightly
from flows.overrides import resolve_training
from flows.recipe import Recipe
from flows.stages import assess, build, learn
from flows.stages.session import on_ray
from flows.verbs import RecipeName, Settings
from pipeline.archive.files import exclusive, write_json
from pipeline.archive.write import pending_shards
from pipeline.archive.zoo import Zoo
from pipeline.errors import DivergenceError
from pipeline.functions import modules_named
from pipeline.training.launch import is_trained
from pipeline.training.transfer import TRANSFERS, Transfer
from pipeline.training.variants import OWN, Variant, all_folders_in, variants
from pipeline.zoos.build import ZooPlan


def run(recipe: RecipeName, out: Path, settings: Settings = ()) -> dict[str, Any]:
    """Builds a zoo, trains on it, evaluates and reports, in one folder; continues what is there.

    With `growth` in the recipe, each run lets the zoo in the folder grow, and has its own
    subfolder.

    Args:
        recipe: The name of a recipe, a TOML or JSON file, or package.module:function.
        out: The run folder. A scheduled run is skipped while another one uses it.
        settings: Overridden fields of the recipe, such as zoo.views=4.
    """
    resolved = resolve_training(recipe, settings)
    with exclusive(out):
        if resolved.growth is None:
            return run_stages(resolved, out)
        with exclusive(out / "zoo"):
            night = nightly.begin(resolved, out)
            made = run_stages(night.recipe, night.folder, night.planned)
        nightly.finish(night, made["metrics"][OWN])
        return made


def run_stages(recipe: Recipe, run: Path, planned: ZooPlan | None = None) -> dict[str, Any]:
    """Do all the work in the folder `run`; returns it, each model's test metrics, and the report.

    `planned` is the zoo to build in it; None: the recipe's.
    """
    training = recipe.required_training
    models = list(variants(training))
    finetune = recipe.probe.finetune if recipe.probe else None
    transfers = TRANSFERS if finetune else ()
    trusted = modules_named(recipe)
    planned = planned or build.plan(recipe.zoo, run / "zoo")
    opened = Zoo.open(run / "zoo", trusted)
    learn.check_task(opened, training)
    if recipe.probe is not None:
        learn.check_probe(opened, training, recipe.probe)
    learn.claim(run, planned.record, training)
    is_needed = bool(pending_shards(run / "zoo")) or not all(
        [is_trained(run / model.folder, training) for model in models]
        + [is_trained(run / model.folder, finetune) for model in transfers if finetune]
    )
    on_ray(
        lambda: make(planned, recipe, run, models, transfers, trusted),
        recipe.resources,
        run,
        is_needed,
    )
    metrics = {model: assess.scored(run / model.folder, trusted) for model in models}
    for transfer in transfers:
        assess.scored(run / transfer.folder, trusted)
    if recipe.probe is not None:
        probe(run, recipe.probe.targets, trusted)
    return {"run": run, "metrics": metrics, "report": report(run, trusted)}


def make(
    planned: ZooPlan,
    recipe: Recipe,
    run: Path,
    models: Sequence[Variant],
    transfers: Sequence[Transfer],
    trusted: Collection[str],
):
    """Build the zoo and train the models: everything that needs Ray."""
    zoo, training, resources = run / "zoo", recipe.required_training, recipe.resources
    summary = build.fit_zoo(planned, zoo, resources)
    if summary is not None:  # for the report
        write_json(run / "fit.json", asdict(summary) | {"workers": resources.workers})
    build.finish(zoo, fitted=summary is not None)
    try:
        learn.train(zoo, run, training, resources, models, trusted)
    except DivergenceError as error:
        if not is_trained(run, training):
            raise
        raise DivergenceError(
            f"{error}; {assess.report(run, trusted)} reports what was trained beside it"
        ) from error
    if recipe.probe is not None and recipe.probe.finetune is not None:
        finetune = recipe.probe.finetune
        learn.train_transfers(run, training, finetune, resources, transfers, trusted)


def probe(run: Path, targets: Sequence[str], trusted: Collection[str]):
    made_from = [run / "metrics.json", *sorted(run.glob("transfer/*/*/metrics.json"))]
    if not assess.is_newer(run / "probe.json", *made_from):
        assess.probe(run, targets=targets, trusted=trusted)


def report(run: Path, trusted: Collection[str]) -> Path:
    page = run / "report" / "index.html"
    scores = (folder / "metrics.json" for folder in all_folders_in(run))
    made_from = [file for file in scores if file.exists()]  # a baseline may be for another time
    made_from += [run / "zoo" / "statistics.json", *run.glob("probe.json")]
    is_drawn = assess.is_newer(page, *made_from)
    return page if is_drawn else assess.report(run, trusted)
