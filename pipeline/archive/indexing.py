"""Indexing of zoos: the members that an index selects, and errors about members without weights."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError, nearest
from pipeline.location import Location


def chosen_rows(index: Any, size: int, folder: Location) -> np.ndarray:
    """Rows of a catalog of `size` rows that `index` selects: `(members,)` int64, `()` for an int.

    Raises IndexError outside the zoo in `folder`, TypeError for anything that is not an index.
    """
    try:
        rows = np.arange(size)[index] if isinstance(index, slice) else np.asarray(index)
    except ValueError:  # nested lists of different lengths
        rows = np.asarray(None)
    if rows.dtype == bool and rows.ndim == 1:
        if len(rows) != size:
            raise IndexError(
                f"a mask must have an entry for each of the {size} members of {folder}, got "
                f"{len(rows)}"
            )
        return np.flatnonzero(rows)
    if rows.ndim > 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
        raise TypeError(
            "members are chosen by an integer, a slice, a list of integers or a mask, got "
            f"{index!r}"
        )
    rows = rows.astype(np.int64)
    outside = rows[(rows < -size) | (rows >= size)]
    if outside.size:
        raise IndexError(f"zoo {folder} has {size} members, got index {outside.flat[0]}")
    return np.where(rows < 0, rows + size, rows)


def rows_where(condition: pc.Expression, catalog: pa.Table, folder: Location) -> np.ndarray:
    """Rows of a catalog that meet a condition.

    Raises InputError if the condition cannot be evaluated on the catalog of the zoo in `folder`.
    """
    number = max(catalog.column_names, key=len) + "+"  # no column has this name
    numbered = catalog.append_column(number, pa.array(np.arange(len(catalog))))
    try:
        return numbered.filter(condition)[number].to_numpy()
    except (pa.ArrowException, TypeError) as error:
        names = catalog.column_names
        unknown = re.search(r"FieldRef\.Name\((.*?)\)", str(error))
        close = nearest(unknown[1], names) if unknown else ""
        raise InputError(
            f"the catalog of zoo {folder} cannot be asked for {condition}: its columns are "
            f"{', '.join(names)}{close or f' ({str(error).splitlines()[0]})'}"
        ) from error


def without_weights(catalog: pa.Table, rows: np.ndarray) -> str:
    """An error message about members without weights."""
    first = catalog.slice(rows.flat[0], 1).to_pylist()[0]
    others = f", nor have {rows.size - 1} others that were asked for" if rows.size > 1 else ""
    return (
        f"member {first['key']} has no weights: {why_none(first)}{others}; "
        "zoo.where(pyarrow.compute.field('status') == 'ok') finds those that have"
    )


def why_none(row: Mapping[str, Any]) -> str:
    """Why the member of a catalog row has no weights."""
    if failure := row.get("failure"):
        return f"its signal {row.get('source_name') or row['source_index']} {failure}"
    return f"its fit failed ({row['stop_reason']})"
