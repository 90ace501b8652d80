"""Catalog columns in the form of a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor


def batch_columns(table: pa.Table, names: Sequence[str]) -> dict[str, Tensor | list[Any]]:
    """Columns of a table in the form of `Batch.columns`."""
    return {name: _as_batch(table[name]) for name in names}


def _as_batch(column: pa.ChunkedArray) -> Tensor | list[Any]:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        values = column.cast(pa.int64(), safe=False).fill_null(-1).to_numpy()
        return torch.from_numpy(np.ascontiguousarray(values).copy())
    if pa.types.is_floating(kind):
        values = column.cast(pa.float32(), safe=False).fill_null(float("nan")).to_numpy()
        return torch.from_numpy(np.ascontiguousarray(values).copy())
    return column.to_pylist()
