"""Shared by all exporters: the members of a zoo in blocks, their rows, safe names."""

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipeline.archive.plan import SPLITS
from pipeline.archive.schemas import IMPORTED
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.exchange.rows import PLACE

SAFE = re.compile(r"[A-Za-z0-9_-]{1,120}")


def exported_blocks(zoo: Zoo) -> Iterator[tuple[str, dict[str, np.ndarray], pa.Table]]:
    """(split, stacked tensors, catalog rows) of all members with weights, in plan order."""
    names = exported_columns(zoo)
    for split in SPLITS:
        for block, rows in zoo.blocks(split):
            yield (
                split,
                {name: tensor.numpy() for name, tensor in block.items()},
                rows.select(names),
            )


def num_exported(zoo: Zoo) -> int:
    return sum(len(zoo.members(split)) for split in SPLITS)


def exported_columns(zoo: Zoo) -> list[str]:
    """The exported columns, in the order of an imported zoo, so that round trips are exact."""
    table = zoo.catalog
    stays = {*PLACE, "source"}
    if "label" in table.column_names and table["label"].null_count == len(table):
        stays.add("label")
    first = [name for name in IMPORTED.names if name in table.column_names]
    return [name for name in dict.fromkeys([*first, *table.column_names]) if name not in stays]


def file_name(key: str) -> str:
    """A member's key as a file name. Raises InputError if it is not a safe one."""
    if not SAFE.fullmatch(key):
        raise InputError(
            f"a member's key must be up to 120 letters, digits, '-' and '_' to become a file name, "
            f"found {key!r}"
        )
    return key
