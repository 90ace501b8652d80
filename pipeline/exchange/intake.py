"""Converts the rows of a source to the catalog of a zoo: keys, groups, labels, splits, shards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive.plan import SPLITS
from pipeline.archive.schemas import IMPORTED
from pipeline.config import ImportConfig
from pipeline.errors import InputError
from pipeline.exchange.outgoing import SAFE
from pipeline.exchange.rows import (
    KNOWN_TYPES,
    PLACE,
    SPLIT_NAMES,
    known_types,
    table_of,
    together,
    without_nan,
)

MAX_CLASSES = 10_000
"""Labels are classes only if all integers are below this."""


@dataclass(frozen=True)
class Intake:
    rows: pa.Table
    """All members: those of the source, then those that failed there."""
    shards: dict[str, list[int]]
    """The rows of each shard."""
    columns: dict[str, str]
    """Arrow type of each column other than the common ones."""
    class_names: tuple[str, ...]
    num_groups: int
    keeps_sources: bool
    """Whether all members have the number of their signal or run from the source."""
    problems: dict[int, str]
    """Why a row cannot be used, whatever its weights."""


def take_in(config: ImportConfig, rows: pa.Table, failed: Sequence[Mapping[str, Any]]) -> Intake:
    """Raises InputError if no split name is known, a group is in two splits, or train is empty."""
    if failed:
        rows = together([known_types(rows), known_types(table_of(failed))])
    rows = without_nan(known_types(rows))
    groups = group_numbers(rows)
    label, class_names = labels_of(rows)
    splits, problems = splits_of(config, rows, groups, label)
    keys, own_keys = keys_of(rows)
    common = {
        "key": keys,
        "split": splits.tolist(),
        "source_index": pa.array(groups),
        "view": views_of(rows, groups),
        "label": label,
        "stop_reason": texts(rows, "stop_reason"),
    }
    extras = {
        name: simple(rows[name].combine_chunks())
        for name in rows.column_names
        if name not in (*IMPORTED.names, *PLACE, "group")
    } | own_keys
    shards = {}
    for split in SPLITS:
        index = np.flatnonzero(splits == split).tolist()
        for number, start in enumerate(range(0, len(index), config.shard_size)):
            shards[f"{split}-{number:06d}"] = index[start : start + config.shard_size]
    return Intake(
        pa.table(common | extras),
        shards,
        {name: str(column.type) for name, column in extras.items()},
        class_names,
        len(np.unique(groups)),
        present(rows, "source_index") and pa.types.is_integer(rows["source_index"].type),
        problems,
    )


def present(rows: pa.Table, name: str) -> bool:
    """Whether every row has a value in this column."""
    return name in rows.column_names and rows[name].null_count == 0


def texts(rows: pa.Table, name: str) -> pa.Array:
    if name not in rows.column_names:
        return pa.nulls(len(rows), pa.string())
    return rows[name].combine_chunks().cast(pa.string())


def simple(column: pa.Array) -> pa.Array:
    """Numbers, booleans and strings unchanged, anything else as a string."""
    kind = column.type
    keep = (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
    )
    return column if keep else column.cast(pa.string())


def keys_of(rows: pa.Table) -> tuple[list[str], dict[str, pa.Array]]:
    """The source's keys, if unique and safe as file names; else numbers, and a column of keys."""
    own = texts(rows, "key")
    keys = own.to_pylist()
    if all(key is not None and SAFE.fullmatch(key) for key in keys) and len(set(keys)) == len(keys):
        return keys, {}
    numbers = [f"{number:08d}" for number in range(len(keys))]
    return numbers, {"source_key": own} if own.null_count < len(own) else {}


def group_numbers(rows: pa.Table) -> np.ndarray:
    """`(members,)` int64: equal for members of one signal or run, which are never in two splits.

    A row is identified by the first it has of the number of its signal, its run, group and place,
    so a row without them does not affect the others.
    """
    numbers = pa.nulls(len(rows), pa.int64())
    if "source_index" in rows.column_names and pa.types.is_integer(rows["source_index"].type):
        numbers = rows["source_index"].combine_chunks().cast(pa.int64())
    names = [
        pc.binary_join_element_wise(name, texts(rows, name), " ")
        for name in ("run", "group", "source")
    ]
    alone = pa.array([f"row {number}" for number in range(len(rows))])
    codes = pc.coalesce(*names, alone).dictionary_encode().indices.cast(pa.int64())
    unused = np.setdiff1d(np.arange(2 * len(rows)), numbers.drop_null().to_numpy())
    return pc.coalesce(numbers, pa.array(unused).take(codes)).to_numpy(zero_copy_only=False)


def views_of(rows: pa.Table, groups: np.ndarray) -> pa.Array:
    """The number of each member in its group: the source's, or counted, by epoch if known."""
    if present(rows, "view") and rows["view"].type == KNOWN_TYPES["view"]:
        return rows["view"].combine_chunks()
    epochs = np.zeros(len(rows))
    if "epoch" in rows.column_names and pa.types.is_integer(rows["epoch"].type):
        epochs = pc.fill_null(rows["epoch"], np.iinfo(np.int64).max).to_numpy()
    order = np.lexsort((epochs, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order[:1]] - 1))
    views = np.empty(len(groups), np.int32)
    views[order] = np.arange(len(groups)) - np.repeat(
        starts, np.diff(np.append(starts, len(groups)))
    )
    return pa.array(views)


def labels_of(rows: pa.Table) -> tuple[pa.Array, tuple[str, ...]]:
    """Labels as class numbers, and the names of the classes.

    Integers are class numbers; anything else is a name. There are no classes without labels, or if
    the integers are negative or too large.
    """
    if "label" not in rows.column_names:
        return pa.nulls(len(rows), pa.int64()), ()
    label = rows["label"].combine_chunks()
    try:
        label = label.cast(pa.int64())
    except pa.ArrowException:
        names = sorted(set(label.cast(pa.string()).drop_null().to_pylist()))
        return pc.index_in(label.cast(pa.string()), pa.array(names)).cast(pa.int64()), tuple(names)
    low, high = (value.as_py() for value in (pc.min(label), pc.max(label)))
    return label, tuple(
        map(str, range(high + 1))
    ) if low is not None and low >= 0 and high < MAX_CLASSES else ()


def splits_of(
    config: ImportConfig, rows: pa.Table, groups: np.ndarray, label: pa.Array
) -> tuple[np.ndarray, dict[int, str]]:
    """`(members,)` the split of each member, and problems of members with other names of splits.

    The split is that of the source, else that of the same signal or run, else drawn.
    """
    given = texts(rows, "split").to_pylist() if config.splits == "source" else [None] * len(rows)
    splits = np.array([SPLIT_NAMES.get(name or "", "") for name in given], dtype="<U10")
    unknown = {
        row: f"split must be called {', '.join(SPLIT_NAMES)}, found {name}"
        for row, name in enumerate(given)
        if name not in (None, *SPLIT_NAMES)
    }
    if len(unknown) == len(rows):
        raise InputError(
            f"{next(iter(unknown.values()))} in {config.path}: `--set splits=drawn` draws splits"
        )
    is_known = splits != ""
    of_group = dict(zip(groups[is_known].tolist(), splits[is_known].tolist(), strict=True))
    splits[~is_known] = [of_group.get(group, "") for group in groups[~is_known].tolist()]
    open_groups = np.unique(groups[splits == ""])
    if len(open_groups):
        test_fraction = 0.0 if (splits == "test").any() else config.test_fraction
        drawn = draw(config, open_groups, classes_of(open_groups, groups, label), test_fraction)
        splits[splits == ""] = drawn[np.searchsorted(open_groups, groups[splits == ""])]
    check_sides(config, groups, splits)
    if not (splits == "train").any():
        raise InputError(
            f"the train split of {config.path} would be empty: {len(rows)} members; set "
            "splits=drawn"
        )
    return splits, unknown


def classes_of(wanted: np.ndarray, groups: np.ndarray, label: pa.Array) -> np.ndarray:
    """The label of each wanted group, -1 if it has none."""
    unique, first = np.unique(groups, return_index=True)
    labels = pc.fill_null(label, -1).to_numpy(zero_copy_only=False)
    return labels[first[np.searchsorted(unique, wanted)]]


def draw(
    config: ImportConfig, groups: np.ndarray, classes: np.ndarray, test_fraction: float
) -> np.ndarray:
    """A split for each group, drawn per class with the seed."""
    splits = np.full(len(groups), "train", dtype="<U10")
    for label in np.unique(classes):
        order = np.random.default_rng([config.seed, 3, int(label) + 1]).permutation(
            np.flatnonzero(classes == label)
        )
        num_test, num_validation = (
            round(len(order) * share) for share in (test_fraction, config.validation_fraction)
        )
        splits[order[:num_test]] = "test"
        splits[order[num_test : num_test + num_validation]] = "validation"
    return splits


def check_sides(config: ImportConfig, groups: np.ndarray, splits: np.ndarray):
    """Raises InputError if members of one group are in two splits."""
    pairs = np.unique(np.stack([groups, np.searchsorted(sorted(SPLITS), splits)]), axis=1)[0]
    twice = pairs[:-1][pairs[1:] == pairs[:-1]]
    if len(twice):
        member = int(np.flatnonzero(groups == twice[0])[0])
        raise InputError(
            f"members of one signal or run of {config.path} must be in one split, found "
            f"{len(np.unique(twice))} in several (one has member {member}): `--set splits=drawn` "
            "draws other splits, by signal or run"
        )
