"""Catalog columns in the form of a batch."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from pipeline.archive.dataset import as_batch
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError

INT64 = 2**63 - 1


def require_int64(zoo: Zoo, name: str):
    """Raise InputError if a column has integers too large for int64, such as random keys."""
    column = zoo.catalog[name]
    if pa.types.is_uint64(column.type) and (most := pc.max(column).as_py() or 0) > INT64:
        raise InputError(
            f"column {name!r} of zoo {zoo.folder} must have numbers up to {INT64} to be learned "
            f"from, found {most}"
        )


def batch_columns(table: pa.Table, names: Sequence[str]) -> dict[str, Tensor | list[Any]]:
    """Columns of a table in the form of `Batch.columns`."""
    return {name: as_batch(table[name]) for name in names}
