"""Catalog rows on their way out and in: which columns travel, under which names, of which types."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive.schemas import SCHEMAS

KNOWN_TYPES = {field.name: field.type for schema in SCHEMAS.values() for field in schema}
"""Types of the columns that our catalogs have; text formats do not state them."""
SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What others call the splits, and what they are called here."""
PLACE = ("shard", "block", "row", "status")
"""What a member's row says about its place in an archive of ours; another archive has other places."""


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table with every column that any row has, null where a row has none."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({readable(name): column_of([row.get(name) for row in rows]) for name in names})


def column_of(values: list[Any]) -> pa.Array:
    """Numbers, truth values or texts as they are; anything else, and mixtures, as texts, JSON where they were none.

    What is no Unicode in a text, as in names of files, becomes `\\udcff`.
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
    """All rows with all columns; one whose types have nothing in common becomes text."""
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
    """The columns that our catalogs have in the types that they have there, where their values fit; places left out."""
    table = table.drop_columns([name for name in PLACE if name in table.column_names])
    for number, name in enumerate(table.column_names):
        if name in KNOWN_TYPES and name != "label" and table[name].type != KNOWN_TYPES[name]:
            try:
                table = table.set_column(number, name, table[name].cast(KNOWN_TYPES[name]))
            except pa.ArrowException:
                continue
    return table


def without_nan(table: pa.Table) -> pa.Table:
    """The rows with null for NaN: neither is a number, and text formats do not tell them apart."""
    for number, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table.column(number)
            finite = pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column)
            table = table.set_column(number, field.name, finite)
    return table


def with_source(table: pa.Table, where: list[str]) -> pa.Table:
    """The rows with where each member lies; what the source itself may call `source` is not kept."""
    table = table.drop_columns(["source"]) if "source" in table.column_names else table
    return table.append_column("source", pa.array(where, pa.string()))


def renamed(table: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """The columns under other names, where they have one, unless another column has that name already."""
    taken = set(table.column_names)
    return table.rename_columns(
        [names[name] if names.get(name, name) not in taken else name for name in table.column_names]
    )
