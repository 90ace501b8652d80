"""Converts labels of any type to classes: each distinct label is a class with a name."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError

MAX_CLASSES = 2**16
NO_LABEL = -1
"""The label of a signal without a class."""


def class_labels(
    what: str, parts: Sequence[pa.Array | pa.ChunkedArray], names: Sequence[str] = ()
) -> tuple[np.ndarray, tuple[str, ...]]:
    """`(rows,)` int64 positions in the class names, or NO_LABEL; and the class names.

    Strings, booleans and integers of any type are classes in sorted order, named like themselves.
    With `names`, integers are positions in these, and -1 is no class, as on the Hugging Face hub.
    The names are empty if no row has a label. Raises InputError, starting with `what`, for labels
    that cannot be classes.
    """
    parts = [plain(what, part) for part in parts]
    kinds = sorted({str(part.type) for part in parts} - {"null"})
    if len(kinds) > 1:
        raise InputError(f"{what} must be of one type, found {' and '.join(kinds)}")
    if not kinds:
        return np.full(sum(map(len, parts)), NO_LABEL), ()
    values = pa.concat_arrays([part.cast(kinds[0]) for part in parts])
    if names and pa.types.is_int64(values.type):
        labels = among(what, values, len(names))
        return labels, tuple(names) if (labels != NO_LABEL).any() else ()
    distinct = pc.unique(values).drop_null()
    if len(distinct) > MAX_CLASSES:
        raise InputError(
            f"{what} must have at most {MAX_CLASSES:,} distinct values to be classes, found "
            f"{len(distinct):,}"
        )
    distinct = pa.array(sorted(distinct.to_pylist()), values.type)
    positions = pc.fill_null(pc.index_in(values, distinct), NO_LABEL)
    return positions.to_numpy().astype(np.int64), tuple(map(str, distinct.to_pylist()))


def among(what: str, values: pa.Array, num_classes: int) -> np.ndarray:
    labels = pc.fill_null(values, NO_LABEL).to_numpy()
    if len(labels) and not (labels.min() >= NO_LABEL and labels.max() < num_classes):
        raise InputError(
            f"{what} must be 0 to {num_classes - 1}, or -1 for none, found {labels.min()} to "
            f"{labels.max()}"
        )
    return labels


def plain(what: str, values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Labels as strings in composed Unicode (NFC) or int64; null stays null, NaN becomes null."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_null(kind):
        return values
    if pa.types.is_boolean(kind):
        return values.cast(pa.string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pc.utf8_normalize(values.cast(pa.string()), "NFC")
    if pa.types.is_floating(kind):
        values = values.cast(pa.float64())
        values = pc.if_else(pc.is_nan(values), None, values)
    elif not (pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        raise InputError(
            f"{what} must be strings, booleans or integers, one class per row, found {kind}"
        )
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{what} must be integers to be classes, found others ({str(error)[:80]})"
        ) from error


def array_labels(what: str, labels: np.ndarray, count: int) -> pa.Array:
    """Labels from a NumPy array `(count,)` or `(count, 1)`.

    Raises InputError for other shapes, and for types that Arrow lacks.
    """
    if labels.shape not in ((count,), (count, 1)):
        raise InputError(f"{what} must be one class for each of {count} rows, found {labels.shape}")
    labels = labels.reshape(count)
    try:
        if labels.dtype.kind == "S":
            labels = np.char.decode(labels, "utf-8")
        # As in pandas, NaN among objects is null.
        return pa.array(labels.astype(labels.dtype.newbyteorder("=")), from_pandas=True)
    except (pa.ArrowException, UnicodeError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{what} must be strings, booleans or integers, found {labels.dtype} ({error})"
        ) from error
