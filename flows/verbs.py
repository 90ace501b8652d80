"""The command's verbs of several steps; each locks its folder and continues what is there."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from flows.overrides import override, resolve_recipe, resolve_training
from flows.recipe import Recipe
from flows.stages import assess, convert, learn
from flows.stages import build as building
from flows.stages.session import on_ray
from pipeline.archive.files import exclusive
from pipeline.archive.record import ZooRecord, record_in
from pipeline.archive.write import pending_shards
from pipeline.archive.zoo import Zoo
from pipeline.config import ResourcesConfig
from pipeline.errors import InputError
from pipeline.functions import modules_named
from pipeline.location import Location, locate
from pipeline.training.launch import is_trained
from pipeline.zoos import KINDS
from pipeline.zoos.build import ZooPlan

# For forms: what is wrong is said in a sentence when it is read.
RecipeName = Annotated[str, Field(json_schema_extra={"examples": ["digits"], "minLength": 1})]
Setting = Annotated[
    str, Field(json_schema_extra={"examples": ["zoo.views=4"], "pattern": r"^[\w.]+ *="})
]
Views = Annotated[str, Field(json_schema_extra={"examples": ["+2"], "pattern": r"^\+?\d{1,9}$"})]
Settings = tuple[Setting, ...]
Modules = tuple[str, ...]
Split = Literal["train", "validation", "test"]


def build(
    recipe: RecipeName, out: str, settings: Settings = (), trust: Modules = ()
) -> building.FitSummary | None:
    """Fits, archives and verifies a zoo; None if all shards were already committed.

    Args:
        recipe: A recipe, a TOML or JSON file, package.module:function, or the zoo.json of a zoo.
        out: The folder of the zoo, or a URI such as s3://bucket/zoo.
        settings: Overridden fields of the recipe, such as zoo.views=4.
        trust: Modules of yours that may be called to make the signals of a zoo.json.
    """
    zoo, file = locate(out), locate(recipe)
    if record := record_in(file):
        resolved = override(recipe_of(file, record), settings)
        plan = partial(building.plan_recorded, file, record, resolved.zoo, zoo, trust)
    else:
        resolved = resolve_recipe(recipe, settings)
        plan = partial(building.plan, resolved.zoo, zoo)
    with exclusive(zoo):
        summary = fit(plan(), zoo, resolved.resources)
        building.finish(zoo, fitted=summary is not None)
    return summary


def recipe_of(file: Location, record: ZooRecord) -> Recipe:
    """The zoo whose zoo.json is `file`. Raises InputError if it was not made by a recipe."""
    if record.config.kind not in KINDS:
        raise InputError(
            f"{file} must be of a zoo that a recipe made, found one that was {record.config.kind}: "
            "make it as it was made"
        )
    return Recipe(zoo=record.config)


def grow(
    zoo: str, views: Views = "+0", settings: Settings = (), trust: Modules = ()
) -> building.FitSummary | None:
    """Adds INRs to a zoo, also of new signals of its source; None if there was nothing to fit.

    Args:
        zoo: The folder of the zoo, or a URI such as s3://bucket/zoo.
        views: The new number of INRs per signal, or +2 for two more.
        settings: Resources, such as resources.workers=4.
        trust: Modules of yours that may be called to make the zoo's signals.
    """
    place, resources = locate(zoo), override(Recipe(), settings).resources
    with exclusive(place):
        planned = building.plan_larger(place, views, trust)
        if planned is None:
            return None
        summary = fit(planned, place, resources)
        building.archive(place, fitted=summary is not None)
    return summary


def fit(planned: ZooPlan, zoo: Location, resources: ResourcesConfig) -> building.FitSummary | None:
    """Call `fit_zoo` on Ray, if there is anything to fit."""
    is_needed = bool(pending_shards(zoo))
    return on_ray(lambda: building.fit_zoo(planned, zoo, resources), resources, zoo, is_needed)


def train(
    recipe: RecipeName, zoo: str, out: Path, settings: Settings = (), trust: Modules = ()
) -> bool:
    """Trains the model of a recipe on a zoo; False if it was already trained.

    Args:
        recipe: The name of a recipe, a TOML or JSON file, or package.module:function.
        zoo: The folder of the zoo, or a URI such as s3://bucket/zoo.
        out: The folder of the run.
        settings: Overridden fields of the recipe, such as training.epochs=4.
        trust: Modules of yours that may be called if the zoo names them.
    """
    resolved, source = resolve_training(recipe, settings), locate(zoo)
    training, resources = resolved.required_training, resolved.resources
    trusted = modules_named(resolved).union(trust)
    building.verify(source)
    learn.check_task(Zoo.open(source, trusted), training)
    with exclusive(out):
        return on_ray(
            lambda: learn.train(source, out, training, resources, trusted=trusted),
            resources,
            out,
            not is_trained(out, training),
        )


def evaluate(run: Path, split: Split = "test", trust: Modules = ()) -> dict[str, Any]:
    """Scores the best checkpoint of a run; returns the metrics and writes them to the run folder.

    Args:
        run: The folder of the run.
        split: The split of its zoo.
        trust: Modules of yours that may be called if the run or its zoo names them.
    """
    assess.require_run(run)
    return assess.evaluate(run, split, trust)


def edit(run: Path, zoo: str, out: str, trust: Modules = ()) -> Zoo:
    """Edits all members of a zoo by the model of a run, into a new zoo.

    Args:
        run: The folder of a run that was trained for editing.
        zoo: The folder of the zoo, or a URI such as s3://bucket/zoo.
        out: The folder of the new zoo, or a URI.
        trust: Modules of yours that may be called if the run names them.
    """
    assess.require_model(run)
    edited = locate(out)
    with exclusive(edited):
        return convert.edit_zoo(run, locate(zoo), edited, trust)
