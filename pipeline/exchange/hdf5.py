"""HDF5 files of other programs: checked data sets, and columns with null.

The contents of a file are checked here, but its structure is read by the HDF5 library, which a
crafted file can make hang: import HDF5 files only from people you trust.
"""

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError
from pipeline.exchange.rows import KNOWN_TYPES
from pipeline.exchange.source import as_float32

Result = TypeVar("Result")
MAX_RATIO = 1032
"""Maximum compression ratio of deflate."""
NOT_READ = (OSError, KeyError, ValueError, TypeError, RuntimeError)
"""Exceptions of h5py for invalid files."""
MISSING = "_FillValue"
"""Attribute of a data set: the number that stands for null, as in netCDF."""


def read_file(file: Path, act: Callable[[h5py.File], Result]) -> Result:
    """Call `act` on the opened file. Raises InputError if it is not an HDF5 file of this format."""
    try:
        with h5py.File(file, "r") as content:
            return act(content)
    except NOT_READ as error:
        if isinstance(error, InputError):
            raise InputError(f"{file} {error}") from error
        raise InputError(
            f"{file} must be an HDF5 file with params and param_config ({error})"
        ) from error


def dataset(content: h5py.File, name: str) -> h5py.Dataset:
    """Raises InputError if a data set is missing, in another file, or too large."""
    found = (
        content.get(name) if isinstance(content.get(name, getlink=True), h5py.HardLink) else None
    )
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise InputError(
            f"must hold {name!r} as a data set of its own, found {sorted(content)[:8]}"
        )
    claimed, stored = prod(found.shape or ()) * found.dtype.itemsize, found.id.get_storage_size()
    if claimed > stored * (MAX_RATIO if found.chunks else 1):
        raise InputError(
            f"claims {claimed:,} bytes of {name!r} and stores {stored:,}: it is truncated or "
            "invalid"
        )
    return found


def write_column(content: h5py.File, name: str, column: pa.ChunkedArray):
    """Write a data set. HDF5 has no null: it becomes NaN, an empty text, or a declared integer."""
    if pa.types.is_boolean(column.type) and column.null_count:
        column = column.cast(pa.string())
    if pa.types.is_string(column.type) or pa.types.is_null(column.type):
        values = [value or "" for value in column.to_pylist()]
        content.create_dataset(name, data=values, dtype=h5py.string_dtype())
    elif column.null_count == 0 or pa.types.is_floating(column.type):
        content.create_dataset(name, data=column.to_numpy())
    else:
        kind = np.dtype(column.type.to_pandas_dtype())
        missing = np.iinfo(kind).max if kind.kind == "u" else np.iinfo(kind).min
        values = pc.fill_null(column, pa.scalar(missing, column.type)).to_numpy()
        content.create_dataset(name, data=values).attrs[MISSING] = kind.type(missing)


def read_column(name: str, values: h5py.Dataset) -> pa.Array:
    """Read a column: empty strings, NaN and the declared fill value become null."""
    if h5py.check_string_dtype(values.dtype) is not None:
        texts = values.asstr(errors="backslashreplace")[:].ravel()
        array = pa.array([value or None for value in texts], pa.string())
    else:
        entries, missing = values[:].ravel(), values.attrs.get(MISSING)
        entries = entries.astype(entries.dtype.newbyteorder("="), copy=False)
        mask = None if missing is None else entries == missing
        array = pa.array(entries, mask=mask, from_pandas=True)
    try:
        return array.cast(KNOWN_TYPES.get(name, array.type))
    except pa.ArrowException:
        return array


def read_values(params: h5py.Dataset, wanted: np.ndarray) -> np.ndarray:
    """The rows `wanted` as float32. HDF5 requires them sorted and unique."""
    rows, inverse = np.unique(wanted, return_inverse=True)
    whole = rows[-1] - rows[0] + 1 == len(rows)
    found = params[rows[0] : rows[-1] + 1] if whole else params[rows]
    return as_float32(found)[inverse]
