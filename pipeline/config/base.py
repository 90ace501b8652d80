"""The base of all configurations: frozen pydantic models with a docstring under every field.

Fields are of two kinds. Identity fields decide the bytes of the result and are fingerprinted;
location fields (where, and on how much hardware, it runs) are not.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from pipeline.distributions import LARGEST

LOCATION = "location"
"""Marks a field that never affects the result: where something runs or is stored, or when it gives
up."""
ADDED = "added"
"""Marks a field that is not fingerprinted at its default, so that configurations older than the
field keep their fingerprints."""
KIND = "kind"
"""Marks a field that names the kind of configuration, which the other fields imply: not
fingerprinted."""


class Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class Config(Frozen):
    @field_validator("*", mode="before")
    @classmethod
    def takes_no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        items = value if isinstance(value, list | tuple) else (value,)
        if any(isinstance(item, bool) for item in items):
            types = leaves(cls.model_fields[str(info.field_name)].annotation)
            if types & {int, float} and bool not in types:
                raise PydanticCustomError("number", "input should be a number")
        return value

    @field_validator("*")
    @classmethod
    def leaves_room_in_float32(cls, value: Any) -> Any:
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and abs(number) > LARGEST for number in numbers):
            raise PydanticCustomError("float32", f"input should be at most {LARGEST:g}")
        return value

    def identity(self) -> dict[str, Any]:
        """The fields that decide the bytes of the result, nested like the configuration."""
        fields = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            is_new = ADDED in field.metadata and value == field.default
            if not is_new and LOCATION not in field.metadata and KIND not in field.metadata:
                fields[name] = value.identity() if isinstance(value, Config) else value
        return fields

    def fingerprint(self) -> str:
        """Eight hexadecimal digits that differ where `identity` does."""
        return fingerprint(self.identity())


def leaves(annotation: Any) -> set[Any]:
    """The types that a type is made of: `int` and `None` of `tuple[int, ...] | None`."""
    parts = get_args(annotation)
    return set().union(*map(leaves, parts)) if parts else {annotation}


def fingerprint(identity: Any) -> str:
    """Eight hexadecimal digits of the sha256 of canonical JSON.

    Raises TypeError for values that JSON cannot express.
    """
    canonical = json.dumps(identity, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """The fields that differ between two nested identities: `fit.max_steps: was 200, is 300`.

    For groups of different kinds, only `kind` and the fields that both have.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        if "kind" in old and "kind" in new and old["kind"] != new["kind"]:
            keys = [key for key in old if key in new]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{prefix}.{key}".lstrip("."))
        ]
    if json.dumps(old) == json.dumps(new):
        return []
    return [f"{prefix}: was {json.dumps(old)}, is {json.dumps(new)}"]


def describe(config: Config, prefix: str = "") -> Iterable[tuple[str, Any, str]]:
    """Yield (dotted name, value, meaning) of every field."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Config):
            yield from describe(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, " ".join((field.description or "").split())
