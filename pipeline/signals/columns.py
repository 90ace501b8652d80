"""Finds the columns of images and classes in a table, and reads images from a column."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "class", "target", "category")
NO_IMAGE = "has no image"


def find_image_column(file: Path, schema: pa.Schema, wanted: str | None) -> str:
    """`wanted`, or the column that is named like an image, or the only one that can hold images.

    Raises InputError if there is no such column or more than one.
    """
    able = [field.name for field in schema if is_encoded(field.type) or is_array(field.type)]
    called = [name for name in able if name.casefold() in IMAGE_NAMES]
    found = [name for name in able if name == wanted] if wanted else called or able
    if len(found) != 1:
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise InputError(
            f"{file} must have one column {f'{wanted!r} ' if wanted else ''}of images (encoded "
            f"bytes, a struct with 'bytes', or nested lists), found {found or 'none'} in "
            f"{columns}: set signals.image_column"
        )
    return found[0]


def find_label_column(file: Path, schema: pa.Schema, wanted: str | None) -> str | None:
    """`wanted`, else `label`, else the only column named or described as labels.

    None if there is none, or `wanted` is ''. Raises InputError if there is no column `wanted`, or
    more than one candidate.
    """
    if wanted is not None:
        if wanted and wanted not in schema.names:
            raise InputError(
                f"{file} must have the column {wanted!r} that signals.label_column names, found "
                f"{schema.names}"
            )
        return wanted or None
    described = [name for name, feature in features(schema).items() if feature.get("names")]
    called = [name for name in schema.names if name.casefold() in LABEL_NAMES]
    found = [name for name in schema.names if name in called or name in described]
    found = ["label"] if "label" in found else found
    if len(found) > 1:
        raise InputError(
            f"{file} must have one column of classes, found {found}: set signals.label_column to "
            "one of them, or to '' for no classes"
        )
    return found[0] if found else None


def features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """The Hugging Face metadata of each column; empty if there is none that can be read."""
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in described.items() if isinstance(feature, dict)}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """The class names in the Hugging Face metadata; empty if it has none."""
    names = features(schema).get(column, {}).get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names) if len(set(names)) == len(names) else ()


def is_encoded(kind: pa.DataType) -> bool:
    """Whether a column holds the bytes of image files, directly or in a Hugging Face struct."""
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and is_encoded(kind.field(place).type)
    return (
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def is_array(kind: pa.DataType) -> bool:
    """Whether a column holds pixels: tensors or nested lists, (height, width[, channels])."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return len(kind.shape) in (2, 3)
    depth = 0
    while is_list(kind):
        depth, kind = depth + 1, kind.value_type
    return depth in (2, 3) and (pa.types.is_primitive(kind) and not pa.types.is_temporal(kind))


def is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def images_in(column: pa.ChunkedArray) -> Iterator[bytes | np.ndarray | str]:
    """Encoded bytes or `(height, width, channels)` pixels of each row, or why it has none."""
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    for chunk in column.chunks:
        if isinstance(chunk.type, pa.FixedShapeTensorType):
            rows = zip(chunk.to_numpy_ndarray(), chunk.is_valid().to_pylist(), strict=True)
            yield from (pixels(row) if valid else NO_IMAGE for row, valid in rows)
        elif is_list(chunk.type):
            yield from (nested_pixels(row.values) if row.is_valid else NO_IMAGE for row in chunk)
        else:
            yield from (NO_IMAGE if row is None else row for row in chunk.to_pylist())


def nested_pixels(values: pa.Array) -> np.ndarray | str:
    shape = [len(values)]
    while is_list(values.type):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            return "has rows of several lengths"
        shape.append(lengths[0])
        values = values.flatten()
    if values.null_count:
        return "has pixels without a number"
    return pixels(values.to_numpy(zero_copy_only=False).reshape(shape))


def pixels(values: np.ndarray) -> np.ndarray | str:
    """Check and convert pixels: integers from 0 to 255 to uint8, fractions from 0 to 1 to float32.

    Returns `(height, width, 1 or 3)`, or a text that says why the array is not an image.
    """
    if values.ndim == 2:
        values = values[..., None]
    if not values.size or values.shape[-1] not in (1, 3):
        return f"has shape {values.shape} instead of (height, width) or (height, width, 1 or 3)"
    kind, white = (np.uint8, 255) if values.dtype.kind in "iu" else (np.float32, 1)
    if values.dtype.kind not in "biuf" or not ((values >= 0) & (values <= white)).all():
        return f"has {values.dtype} pixels outside 0 to {white}"
    return values.astype(kind)
