"""Members of a zoo as a map-style PyTorch dataset, with columns that a DataLoader stacks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.archive.shard import Block
from pipeline.errors import InputError


class ZooDataset(Dataset):
    """Some members of a zoo, as `(state dict, *columns)`; `Zoo.dataset` makes it of a split."""

    def __init__(
        self, zoo: Dataset[Block], rows: np.ndarray, columns: Sequence[Tensor | list[str]]
    ):
        """`rows` of the catalog, and their entries in some of its columns."""
        self.zoo, self.rows, self.columns = zoo, rows, columns

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self.zoo[self.rows[index]], *(values[index] for values in self.columns)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, ...]]:
        """The members of a batch, which DataLoader asks for together: each block is read once."""
        states = self.zoo[self.rows[indices]]
        return [
            (
                {name: tensor[i] for name, tensor in states.items()},
                *(values[index] for values in self.columns),
            )
            for i, index in enumerate(indices)
        ]


def collatable(table: pa.Table, name: str) -> Tensor | list[str]:
    """A column whose entries the collate function of a DataLoader stacks, null or not.

    Integers and booleans become int64 with -1 for null, other numbers float32 with NaN, and strings
    stay strings with '' for null. Raises InputError for integers above int64, such as seeds.
    """
    column = table[name]
    try:
        values = as_batch(column)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"column {name!r} must have integers that fit int64 to be in a batch: {error}"
        ) from error
    if isinstance(values, Tensor):
        return values
    return ["" if value is None else value for value in values]


def as_batch(column: pa.ChunkedArray) -> Tensor | list[Any]:
    """`(members,)` int64 with -1 for null, float32 with NaN for null, or a list of other values.

    Raises pa.ArrowInvalid for numbers above int64.
    """
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        values = column.cast(pa.int64()).fill_null(-1).to_numpy()
    elif pa.types.is_floating(kind):
        values = column.cast(pa.float32(), safe=False).fill_null(float("nan")).to_numpy()
    else:
        return column.to_pylist()
    return torch.from_numpy(np.ascontiguousarray(values).copy())
