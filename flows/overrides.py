"""From a recipe's name and `--set` options to a checked configuration."""

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import ValidationError

from flows.recipe import Recipe
from flows.recipes import RECIPES
from pipeline.config import Config
from pipeline.errors import InputError, nearest

AnyConfig = TypeVar("AnyConfig", bound=Config)


def resolve_recipe(name: str, settings: Iterable[str]) -> Recipe:
    """The recipe `name` with each of `settings` (`key=value`, the key dotted, the value JSON or a bare string) in place.

    Raises InputError that names the recipe or field, what was given, what is allowed, and the nearest known name.
    """
    if name not in RECIPES:
        raise InputError(
            f"there is no recipe {name!r}: expected one of {', '.join(RECIPES)}{nearest(name, RECIPES)}"
        )
    return override(RECIPES[name](), settings)


def override(config: AnyConfig, settings: Iterable[str]) -> AnyConfig:
    """`config` with each of `settings` in place, as in `resolve_recipe`."""
    content = config.model_dump(mode="json")
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise InputError(f"--set takes key=value, got {setting!r}")
        place(content, key.strip(), parse_value(text.strip()))
    try:
        return type(config).model_validate(content)
    except ValidationError as error:
        raise InputError("; ".join(explain(problem) for problem in error.errors())) from error


def parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def place(content: dict[str, Any], key: str, value: Any):
    """Put `value` at the dotted `key`. Raises InputError where there is no such field."""
    *groups, last = key.split(".")
    here, path = content, ""
    for part in (*groups, last):
        if not isinstance(here, dict):
            raise InputError(
                f"there is no field {key!r}: {path!r} is a single value, not a group of fields"
            )
        if part not in here:
            where = f"of {path!r} " if path else ""
            whole = [*field_names(content)]
            raise InputError(
                f"there is no field {key!r}: the fields {where}are {', '.join(here)}{nearest(key, whole)}"
            )
        path = f"{path}.{part}".lstrip(".")
        parent, here = here, here[part]
    if isinstance(here, dict):
        raise InputError(
            f"{key!r} is a group of fields, set one of them: {', '.join(f'{key}.{name}' for name in here)}"
        )
    parent[last] = value


def field_names(content: dict[str, Any], prefix: str = "") -> Iterable[str]:
    """The dotted names of all fields."""
    for name, value in content.items():
        yield from (
            field_names(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else [f"{prefix}{name}"]
        )


def explain(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{field}: {message}, got {json.dumps(problem['input'], default=str)}"
