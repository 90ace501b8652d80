"""Configuration files: read as TOML or JSON, written as TOML with the meaning of each field."""

import json
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.unions import in_words, models_in

WIDTH = 100
"""Columns of comments."""
KEY = r"[\w.\"'-]+"
"""A dotted key, whose parts may be quoted."""
NULL = re.compile(r"^\s*[\w.-]+\s*=\s*null\b", re.MULTILINE)


def read_file(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a TOML or JSON file, and its nested fields. Raises InputError for other files."""
    parsers: dict[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".json": parse_json}
    parse = parsers.get(path.suffix.lower())
    if parse is None:
        raise InputError(f"{path} must be a .toml or .json file to be a recipe")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read as a recipe: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be text in UTF-8 to be a recipe: {error.reason}") from error
    try:
        fields = parse(text)
    except (ValueError, RecursionError) as error:
        name = path.suffix[1:].upper()
        hint = "; TOML has no null: leave such a field out" if NULL.search(text) else ""
        raise InputError(f"{path} is not valid {name}: {error}{hint}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} must hold groups of fields, found {type(fields).__name__}")
    return text, fields


def parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=without_duplicates)


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is set twice in one group")
    return fields


def line_of(text: str, field: str) -> int | None:
    """The number of the TOML line that sets the dotted `field` or opens it as a group.

    If there is none, that of the nearest group around it, such as an inline table; None if that has
    none either.
    """
    table, lines = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(rf"\s*\[\[?\s*({KEY})\s*\]", line):
            name = table = header[1]
        elif key := re.match(rf"\s*({KEY})\s*=", line):
            name = f"{table}.{key[1]}".lstrip(".")
        else:
            continue
        for group in accumulate(re.sub("[\"']", "", name).split("."), "{}.{}".format):
            lines.setdefault(group, number)
    while field and field not in lines:
        field = field.rpartition(".")[0]
    return lines.get(field)


def write_toml(config: Config, title: str) -> str:
    """The whole configuration as TOML, with the meaning of each field in a comment above it.

    TOML has no null: fields that are null are commented out, as null is their default.
    """
    legend = "Fields that are left out have their defaults. A field that is commented out is null."
    lines = [*comment(title), *comment(legend), *table_lines(config)]
    return "\n".join(lines) + "\n"


def table_lines(config: Config, path: str = "", kinds: str = "") -> Iterator[str]:
    """The lines of one group of fields: first its own values, as TOML requires, then its groups."""
    if path:
        yield f"\n[{path}]"
    groups = []
    fields = type(config).model_fields.items()
    for name, field in sorted(fields, key=lambda item: item[0] != "kind"):  # decides the others
        value, models = getattr(config, name), models_in(field.annotation)
        if models:
            groups.append((f"{path}.{name}".lstrip("."), field.description, value, models))
            continue
        also = f" Kinds: {kinds}." if name == "kind" and kinds else ""
        yield from comment(f"{field.description or ''}{also}")
        plain = config.model_dump(mode="json", include={name})[name]
        yield f"# {name} = null" if plain is None else f"{name} = {literal(plain)}"
    for name, meaning, value, models in groups:
        if value is None:
            yield f"\n# [{name}]"
            yield from comment(meaning or "")
            for inner, field in models[0].model_fields.items():
                yield from comment(f"{inner}: {field.description or ''}")
        else:
            yield from table_lines(value, name, in_words(models) if len(models) > 1 else "")


def literal(value: Any) -> str:
    """A JSON value as TOML. Raises InputError for null in a list or in free options."""
    if value is None:
        raise InputError(
            "TOML has no null: leave it out of the options, or write the recipe as JSON"
        )
    if isinstance(value, dict):
        pairs = (f"{literal(key)} = {literal(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def comment(text: str) -> list[str]:
    words = " ".join(text.split())
    return textwrap.wrap(
        words,
        WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )
