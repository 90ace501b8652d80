"""Turns RECIPE and the `--set` options into a validated configuration."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.merging import AnyConfig, FieldError, joined, with_changes
from flows.recipe import Recipe
from flows.recipe_file import line_of, read_file
from flows.recipes import RECIPES
from pipeline.config import FUNCTION
from pipeline.errors import InputError, nearest
from pipeline.functions import failures_of, find_function


def resolve_recipe(name: str, settings: Iterable[str]) -> Recipe:
    """The recipe `name` with `settings` applied: `key=value`, with a dotted key and a value that is
    JSON or a bare string.

    Raises InputError with the recipe or field, the given value, what is allowed, and the nearest
    known name.
    """
    return override(find_recipe(name), settings)


def resolve_training(name: str, settings: Iterable[str]) -> Recipe:
    """Like `resolve_recipe`, but also raises InputError if the recipe only makes a zoo."""
    recipe = resolve_recipe(name, settings)
    if recipe.training is None:
        raise InputError(
            f"recipe {name!r} makes a zoo and trains nothing: `dwszoo zoo build {name} --out DIR` "
            "makes it; a field of `training` says how to train on it"
        )
    return recipe


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, from a TOML or JSON file, or from a user's function that returns one.

    Raises InputError if there is no such recipe.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if FUNCTION.fullmatch(name):
        function = find_function(name, "RECIPE")
        with failures_of(f"recipe {name}"):
            try:
                made = function()
            except ValidationError as error:
                from pipeline.archive.record import first_problem  # loads torch

                raise InputError(f"recipe {name}: {first_problem(error)}") from error
        if not isinstance(made, Recipe):
            raise InputError(f"{name} must return a Recipe, found {type(made).__name__}")
        return made
    if Path(name).suffix or os.path.exists(name):
        return read_recipe(Path(name))
    raise InputError(
        f"there is no recipe {name!r}: expected one of {', '.join(RECIPES)}, a .toml or .json file "
        f"or package.module:function{nearest(name, RECIPES)}"
    )


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file. Raises InputError if it cannot be read or a field is wrong."""
    text, fields = read_file(path)
    return config_of(Recipe, fields, path, text)


def config_of(
    model: type[AnyConfig], fields: dict[str, Any], path: Path, text: str, table: str = ""
) -> AnyConfig:
    """A configuration from nested fields of a file, or of one `table` of it; others have defaults.

    Raises InputError if a field is wrong, with its line in the file's text if that is known.
    """
    try:
        return with_changes(model, {}, fields)
    except FieldError as error:
        lines = {field: line_of(text, f"{table}.{field}".lstrip(".")) for field in error.problems}
        sentences = (
            f"line {lines[field]}: {sentence}" if lines[field] else sentence
            for field, sentence in error.problems.items()
        )
        raise InputError(f"{path}: {'; '.join(sentences)}") from error


def override(config: AnyConfig, settings: Iterable[str]) -> AnyConfig:
    """`config` with `settings` applied, as in `resolve_recipe`; later ones win."""
    changes: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise InputError(f"--set takes key=value, got {setting!r}")
        change = parse_value(text.strip())
        for name in reversed(key.strip().split(".")):
            change = {name: change}
        changes = joined(changes, change)
    return with_changes(type(config), config.model_dump(mode="json"), changes)


def parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
