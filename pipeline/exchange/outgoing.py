"""What every exporter needs: the members of a zoo in blocks, their rows, safe names."""

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipeline.archive.plan import SPLITS
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.exchange.rows import PLACE

SAFE = re.compile(r"[A-Za-z0-9_-]{1,120}")


def exported_blocks(zoo: Zoo) -> Iterator[tuple[str, dict[str, np.ndarray], pa.Table]]:
    """(split, stacked tensors, catalog rows) of all members that have weights, split by split, in the order of the plan."""
    for split in SPLITS:
        for block, rows in zoo.blocks(split):
            yield split, {name: tensor.numpy() for name, tensor in block.items()}, rows


def num_exported(zoo: Zoo) -> int:
    return sum(len(zoo.members(split)) for split in SPLITS)


def exported_rows(table: pa.Table) -> pa.Table:
    """The columns that travel."""
    return table.drop_columns([name for name in (*PLACE, "source") if name in table.column_names])


def file_name(key: str) -> str:
    """A member's key as the name of a file. Raises InputError where it could name anything but one file in its folder."""
    if not SAFE.fullmatch(key):
        raise InputError(
            f"a member's key must be up to 120 letters, digits, '-' and '_' to become a file name, found {key!r}"
        )
    return key
