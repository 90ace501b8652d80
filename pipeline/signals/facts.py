"""Facts: known numbers of signals, other than their class, which become columns of the catalog."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError

MAX_NAME = 64
"""Maximum length in characters."""


def check_facts(what: str, facts: Any, count: int) -> dict[str, np.ndarray]:
    """Convert facts to columns of `Signals`. Raises InputError for anything but numbers by name."""
    if not isinstance(facts, Mapping):
        raise InputError(
            f"{what} must return facts as a dict of columns by name, found {type(facts).__name__}"
        )
    check_names(what, facts)
    return {
        name: array_fact(f"fact {name!r} of {what}", values, count)
        for name, values in facts.items()
    }


def check_names(what: str, names: Iterable[Any]):
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or len(name) > MAX_NAME:
            raise InputError(
                f"{what} must name facts as variables are named, with up to {MAX_NAME} letters, "
                f"digits and '_', found {name!r}"
            )


def array_fact(what: str, values: Any, count: int) -> np.ndarray:
    """A column from anything that NumPy converts to an array `(count,)`; None and NaN are null."""
    try:
        values = np.asanyarray(values)  # a mask says what is null
    except ValueError as error:
        raise InputError(f"{what} must be one number for each signal ({error})") from error
    if values.shape != (count,):
        raise InputError(
            f"{what} must be one number for each of {count} signals, found {values.shape}"
        )
    try:
        column = pa.array(values.astype(values.dtype.newbyteorder("=")), from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what} must be numbers, found {values.dtype} ({error})") from error
    return fact(what, [column])


def fact(what: str, parts: Sequence[pa.Array | pa.ChunkedArray]) -> np.ndarray:
    """`(rows,)` int64 if every row has an integer, else float64 with NaN for null.

    Raises InputError for anything that is not a number, is infinite or would be rounded.
    """
    columns: list[pa.Array] = []
    for part in filter(len, parts):
        kind = part.type
        if not (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_null(kind)
        ):
            raise InputError(f"{what} must be numbers, found {kind}")
        columns += part.chunks if isinstance(part, pa.ChunkedArray) else [part]
    is_whole = all(pa.types.is_integer(column.type) and not column.null_count for column in columns)
    try:
        kind = pa.int64() if is_whole else pa.float64()
        values = pa.concat_arrays([column.cast(kind) for column in columns])
    except pa.ArrowInvalid as error:
        raise InputError(f"{what} must fit {kind} ({str(error)[:80]})") from error
    numbers = values.to_numpy() if is_whole else pc.fill_null(values, np.nan).to_numpy()
    if (endless := np.isinf(numbers)).any():
        row = int(endless.argmax())
        raise InputError(f"{what} must be finite or null, found {numbers[row]} at {row}")
    return numbers.copy()
