"""Applies changes, as nested groups of fields, to a configuration."""

import json
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from pipeline.config import Config
from pipeline.errors import InputError, nearest
from pipeline.unions import kinds_of, model_of_kind, models_in

AnyConfig = TypeVar("AnyConfig", bound=Config)
Models = Sequence[type[BaseModel]]


class FieldError(InputError):
    """Problems of a configuration: a sentence for each field, by its dotted name."""

    def __init__(self, problems: dict[str, str]):
        super().__init__("; ".join(problems.values()))
        self.problems = problems


def with_changes(
    model: type[AnyConfig], content: dict[str, Any], changes: dict[str, Any]
) -> AnyConfig:
    """The configuration of `content` with nested `changes` applied; other fields have defaults.

    A group of fields whose kind changes starts from defaults. Raises FieldError if a field is
    unknown, belongs to another kind, or has a value that is not allowed.
    """
    content = merged((model,), content, changes)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems: dict[str, str] = {}
        for problem in error.errors():
            problems.setdefault(*explain(model, content, problem))  # only a field's first problem
        raise FieldError(problems) from error


def joined(old: Any, new: Any) -> Any:
    """Nested groups of fields merged; if both have a field, the new one wins."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {name: joined(old.get(name), value) for name, value in new.items()}


def merged(
    models: Models, content: dict[str, Any], changes: dict[str, Any], path: str = ""
) -> dict[str, Any]:
    """The content of one of `models`, at `path` in the configuration, with the changes applied."""
    old_kind = content.get("kind")
    kind = changes.get("kind", old_kind)
    try:
        model = model_of_kind(models, kind)
    except PydanticCustomError as error:
        raise FieldError({f"{path}kind": f"{path}kind: {error.message()}"}) from error
    content = {} if len(models) > 1 and kind != old_kind else dict(content)
    for name, value in changes.items():
        if name not in model.model_fields:
            raise FieldError({f"{path}{name}": unknown(models, model, content, path, name, value)})
        annotation = model.model_fields[name].annotation
        content[name] = changed(annotation, content.get(name), value, f"{path}{name}")
    return content


def changed(annotation: Any, old: Any, new: Any, field: str) -> Any:
    """The new value of a field. Raises FieldError for a group instead of a value, or vice versa."""
    models = models_in(annotation)
    if isinstance(new, dict) and models:
        return merged(models, old or {}, new, f"{field}.")
    if isinstance(new, dict) and get_origin(annotation) is dict:
        return joined(old, new)
    if isinstance(new, dict):
        raise FieldError({field: f"{field!r} is a single value, not a group of fields"})
    if models and not (new is None and NoneType in get_args(annotation)):
        model = model_of_kind(models, old.get("kind") if isinstance(old, dict) else None)
        names = ", ".join(f"{field}.{name}" for name in model.model_fields)
        raise FieldError({field: f"{field!r} is a group of fields, set one of them: {names}"})
    return new


def unknown(
    models: Models,
    model: type[BaseModel],
    content: dict[str, Any],
    path: str,
    name: str,
    value: Any,
) -> str:
    """The message for a field that a model does not have."""
    others = [kind for other in models if name in other.model_fields for kind in kinds_of(other)]
    if others:
        return (
            f"{path}{name} is a field of kind {' or '.join(map(repr, others))}: choose one with "
            f"{path}kind, or leave the field out"
        )
    while isinstance(value, dict) and len(value) == 1:  # restore the whole key as given
        inner, value = next(iter(value.items()))
        name = f"{name}.{inner}"
    where = f"of {path[:-1]!r} " if path else ""
    names = ", ".join(model.model_fields)
    hint = nearest(name, field_names(model, content), path)
    return f"there is no field {f'{path}{name}'!r}: the fields {where}are {names}{hint}"


def field_names(model: type[BaseModel], content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of all fields and groups of fields; in a union, of the current kind."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        inner = content.get(name) or {}
        if models := models_in(field.annotation):
            chosen = model_of_kind(models, inner.get("kind"))
            yield from field_names(chosen, inner, f"{prefix}{name}.")


def explain(model: type[BaseModel], content: dict[str, Any], problem: Any) -> tuple[str, str]:
    """The dotted field of a pydantic problem, and a message about it."""
    field = field_at(model, content, problem["loc"])
    if problem["type"] == "missing":
        return field, f"{field} must be set: it has no default"
    if problem["type"] == "value_error":  # from a validator of several fields
        return field, f"{field}: {problem['ctx']['error']}".removeprefix(": ")
    message = problem["msg"][0].lower() + problem["msg"][1:].replace("valid tuple", "list")
    return field, f"{field}: {message}, got {json.dumps(problem['input'], default=str)}"


def field_at(model: type[BaseModel], content: dict[str, Any], place: Sequence[int | str]) -> str:
    """The dotted name of the field at pydantic's location, without items and types below it."""
    names: list[str] = []
    for part in map(str, place):
        names.append(part)
        models = models_in(model.model_fields[part].annotation)
        content = content.get(part) or {}
        if not models or not isinstance(content, dict):
            break
        model = model_of_kind(models, content.get("kind"))
    return ".".join(names)
