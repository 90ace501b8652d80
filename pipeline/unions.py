"""Fields that hold one of several configurations, chosen by `kind`: `Annotated[A | B, BY_KIND]`."""

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pipeline.errors import nearest


class ByKind:
    """Marks a union of models with a field `kind`: a Literal of one or more names.

    A value without `kind` is of the first model. A model whose `kind` is not a Literal, such as
    `pipeline.functions.Own`, takes package.module:function. Errors are located as if the field had
    the chosen model as its type.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        models = models_in(source)

        def choose(value: Any, _: Any) -> BaseModel:
            if isinstance(value, models):
                return value
            if not isinstance(value, dict):
                raise PydanticCustomError("group", "input should be a group of fields")
            return model_of_kind(models, value.get("kind")).model_validate(value)

        return core_schema.no_info_wrap_validator_function(choose, handler(source))


BY_KIND = ByKind()


def models_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The models that a field of this type may hold: one for a model, several for a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    if get_origin(annotation) is Annotated:
        return models_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(model for part in get_args(annotation) for model in models_in(part))
    return ()


def kinds_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The kinds that choose a model of a union; empty if it takes package.module:function."""
    return get_args(model.model_fields["kind"].annotation)


def model_of_kind(models: Sequence[type[BaseModel]], kind: Any) -> type[BaseModel]:
    """The model of a union that `kind` chooses; the first for None.

    Raises PydanticCustomError, which lists the kinds and suggests the nearest, if there is none.
    """
    if kind is None or len(models) == 1:
        return models[0]
    for model in models:
        if kind in kinds_of(model):
            return model
    for model in models:
        if not kinds_of(model) and isinstance(kind, str) and ":" in kind:
            return model
    raise PydanticCustomError(
        "kind",
        f"there is no kind {kind!r}: expected one of {in_words(models)}"
        + nearest(kind, [name for model in models for name in kinds_of(model)]),
    )


def in_words(models: Sequence[type[BaseModel]]) -> str:
    """The kinds of a union: `dwsnet, mlp or package.module:function`."""
    names = ", ".join(name for model in models for name in kinds_of(model))
    return names if all(map(kinds_of, models)) else f"{names} or package.module:function"
