"""Catalog rows in exports and imports: their columns, names and types."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive.schemas import SCHEMAS

KNOWN_TYPES = {field.name: field.type for schema in SCHEMAS.values() for field in schema}
"""Types of our catalog columns, which text formats do not state."""
SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""Names of splits in other formats, and ours."""
PLACE = ("shard", "block", "row", "status")
"""Columns of a member's place in the archive, which are not exported."""


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table with the columns of all rows; missing values are null."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({readable(name): column_of([row.get(name) for row in rows]) for name in names})


def column_of(values: list[Any]) -> pa.Array:
    """A column of numbers, booleans or strings; anything else, and mixtures, as strings or JSON.

    Invalid Unicode in strings, as in file names, becomes `\\udcff`.
    """
    values = [readable(value) if isinstance(value, str) else value for value in values]
    try:
        array = pa.array(values)
        if not pa.types.is_nested(array.type):
            return array
    except (pa.ArrowException, OverflowError):
        pass
    texts = [
        value
        if value is None or isinstance(value, str)
        else readable(json.dumps(value, default=str))
        for value in values
    ]
    return pa.array(texts, pa.string())


def readable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def together(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows with all columns; a column of incompatible types becomes text."""
    schemas = [table.schema for table in tables]
    for name in dict.fromkeys(name for schema in schemas for name in schema.names):
        fields = [schema.field(name) for schema in schemas if name in schema.names]
        try:
            pa.unify_schemas([pa.schema([field]) for field in fields], promote_options="permissive")
        except pa.ArrowException:
            tables = [as_text(table, name) for table in tables]
    return pa.concat_tables(tables, promote_options="permissive")


def as_text(table: pa.Table, name: str) -> pa.Table:
    if name not in table.column_names:
        return table
    place = table.column_names.index(name)
    return table.set_column(place, name, table[name].cast(pa.string()))


def known_types(table: pa.Table) -> pa.Table:
    """Cast columns of our catalogs to their types there, if the values fit; drop `PLACE`."""
    table = table.drop_columns([name for name in PLACE if name in table.column_names])
    for number, name in enumerate(table.column_names):
        if name in KNOWN_TYPES and name != "label" and table[name].type != KNOWN_TYPES[name]:
            try:
                table = table.set_column(number, name, table[name].cast(KNOWN_TYPES[name]))
            except pa.ArrowException:
                continue
    return table


def without_nan(table: pa.Table) -> pa.Table:
    """The rows with null instead of NaN, which text formats do not distinguish."""
    for number, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table.column(number)
            finite = pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column)
            table = table.set_column(number, field.name, finite)
    return table


def with_source(table: pa.Table, where: list[str]) -> pa.Table:
    """The rows with a column `source`, where each member is; replaces an existing one."""
    table = table.drop_columns(["source"]) if "source" in table.column_names else table
    return table.append_column("source", pa.array(where, pa.string()))


def renamed(table: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """Rename columns, unless another column already has the name."""
    taken = set(table.column_names)
    return table.rename_columns(
        [names[name] if names.get(name, name) not in taken else name for name in table.column_names]
    )
