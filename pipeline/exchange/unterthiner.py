"""The layout of the Small CNN Zoo (Unterthiner et al. 2020): a matrix, a table and a layout file.

`weights.npy` `(members, parameters)` float32; `metrics.csv.gz`, one row per member: `step`,
`modeldir` (the run), `config.*`, accuracies and losses; `layout.csv`, one row per tensor:
`varname,start_idx,end_idx,size,shape`, with the names and axis orders of Keras (`kernel:0` with
outputs last).
"""

import ast
import csv
import io
from collections.abc import Callable
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.lib import format as npy

from dwsnet.weight_space import WeightSpace
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.exchange.layers import Layout, layout_for, layout_of
from pipeline.exchange.outgoing import exported_blocks, num_exported
from pipeline.exchange.pickled import UNREADABLE
from pipeline.exchange.rows import renamed, with_source
from pipeline.exchange.source import (
    Loaded,
    Source,
    as_float32,
    first_line,
    load_matrix,
    read_text,
)
from pipeline.exchange.tables import read_table
from pipeline.progress import Advance

COLUMNS = {
    "epoch": "step",
    "run": "modeldir",
    "init": "config.w_init",
    "weight_decay": "config.l2reg",
} | {
    name: f"config.{name}"
    for name in (
        "activation",
        "b_init",
        "dropout",
        "epochs",
        "init_scale",
        "init_std",
        "learning_rate",
        "optimizer",
        "train_fraction",
    )
}
"""Our names of columns, and those of the format. Keras adds l2reg times the squared weights to the
loss, which is twice the effect of weight_decay."""
HEADER = ("varname", "start_idx", "end_idx", "size", "shape")


def write(zoo: Zoo, out: Path, advance: Advance):
    layout = layout_for(zoo.space, keras_names(zoo.space), "/kernel:0", "/bias:0")
    shape, tables = (num_exported(zoo), layout.num_parameters), []
    with open(out / "weights.npy", "wb") as file:
        npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for _, block, rows in exported_blocks(zoo):
            parts = [tensor.reshape(len(rows), -1) for tensor in layout.theirs(block).values()]
            file.write(np.concatenate(parts, 1, dtype="<f4").tobytes())
            tables.append(renamed(rows, COLUMNS))
            advance(len(rows))
    with (
        open(out / "metrics.csv.gz", "wb") as packed,
        pa.CompressedOutputStream(packed, "gzip") as file,
    ):
        pyarrow.csv.write_csv(pa.concat_tables(tables), file)
    with open(out / "layout.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        end = 0
        for tensor in layout.tensors:
            size = prod(tensor.their_shape)
            writer.writerow((tensor.theirs, end, end + size, size, tensor.their_shape))
            end += size


def keras_names(space: WeightSpace) -> Callable[[int, int], str]:
    """Names of layers as in Keras, which numbers those of a kind from the second on."""
    num_convolutions = sum(len(spec.shape) == 4 for spec in space.tensors)

    def name(number: int, positions: int) -> str:
        kind, place = ("conv2d", number) if positions == 2 else ("dense", number - num_convolutions)
        return f"sequential/{kind}_{place}" if place else f"sequential/{kind}"

    return name


def read(path: Path) -> Source:
    """Open the folder with the three files."""
    files = [path / name for name in ("weights.npy", "metrics.csv.gz", "layout.csv")]
    for file in files:
        if not file.is_file():
            raise InputError(
                f"{path} must have {', '.join(each.name for each in files)}, found no {file.name}"
            )
    weights, metrics, tensors = files
    matrix, planned = open_matrix(weights)
    rows, problems = read_table(metrics, {theirs: ours for ours, theirs in COLUMNS.items()})
    if len(rows) != planned:
        raise InputError(
            f"{metrics} must have a row for each of the {planned:,} rows of {weights.name}, found "
            f"{len(rows):,}"
        )
    problems |= {row: f"{weights.name} is truncated" for row in range(len(matrix), planned)}
    slices, layout = read_layout(tensors, matrix.shape[1])
    rows = with_source(rows, [f"{weights.name} row {i}" for i in range(len(rows))])

    def read_rows(index: np.ndarray) -> Loaded:
        part = as_float32(matrix[np.minimum(index, len(matrix) - 1)])
        return load_matrix(
            layout,
            {
                name: part[:, columns].reshape(len(part), *shape)
                for name, (columns, shape) in slices.items()
            },
        )

    return Source(rows, layout, read_rows, files, problems)


def open_matrix(file: Path) -> tuple[np.ndarray, int]:
    """The rows in the file, memory-mapped, and the number in its header, larger if truncated.

    Raises InputError if it is not a matrix of floating point numbers.
    """
    try:
        with open(file, "rb") as content:
            version = npy.read_magic(content)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, is_fortran, dtype = read(content)
            start, size = content.tell(), content.seek(0, 2)
        if len(shape) != 2 or dtype.kind != "f":
            raise ValueError(f"it holds {shape} of {dtype}")
        whole = min(shape[0], (size - start) // (dtype.itemsize * shape[1]))
        if not whole:
            raise ValueError("it holds no complete row")
        if is_fortran and whole < shape[0]:
            raise ValueError("it is truncated and stored by columns")
        order: Literal["F", "C"] = "F" if is_fortran else "C"
        return np.memmap(file, dtype, "r", start, (whole, shape[1]), order), shape[0]
    except (*UNREADABLE, SyntaxError, TokenError) as error:
        raise InputError(
            f"{file} must be a matrix (members, parameters) of floating point numbers in the "
            f"format of numpy.save ({first_line(error)})"
        ) from error


def read_layout(
    file: Path, num_columns: int
) -> tuple[dict[str, tuple[slice, tuple[int, ...]]], Layout]:
    """Columns and shape of each tensor. Raises InputError if they do not cover the matrix."""
    reader = csv.DictReader(io.StringIO(read_text(file)))
    if missing := {*HEADER} - {*(reader.fieldnames or [])}:
        raise InputError(f"{file} must have columns {', '.join(HEADER)}, found no {min(missing)}")
    table = list(reader)
    slices, end = {}, 0
    for row in sorted(table, key=lambda row: whole(file, row, "start_idx")):
        shape, start, stop = (
            shape_in(file, row),
            whole(file, row, "start_idx"),
            whole(file, row, "end_idx"),
        )
        if start != end or stop - start != prod(shape):
            columns = f"columns {end} to {end + prod(shape)}, found {start} to {stop}"
            raise InputError(f"{file} must give {row['varname']!r} of shape {shape} {columns}")
        if row["varname"] in slices:
            raise InputError(
                f"{file} must have tensors of unique names, {row['varname']!r} comes twice"
            )
        slices[row["varname"]], end = (slice(start, stop), shape), stop
    if end != num_columns:
        raise InputError(f"{file} must cover the {num_columns} columns of weights.npy, found {end}")
    return slices, layout_of([(name, shape) for name, (_, shape) in slices.items()])


def whole(file: Path, row: dict[str, str], name: str) -> int:
    text = row.get(name) or ""
    if not text.strip().isdecimal():
        raise InputError(
            f"{file} must have columns {', '.join(HEADER)} with integers in {name!r}, found "
            f"{text!r}"
        )
    return int(text)


def shape_in(file: Path, row: dict[str, str]) -> tuple[int, ...]:
    """The shape, written `(3, 3, 1, 16)`: a literal, never evaluated."""
    try:
        shape = ast.literal_eval(row.get("shape") or "")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        shape = None
    if (
        not isinstance(shape, tuple | list)
        or not shape
        or not all(type(size) is int and size > 0 for size in shape)
    ):
        raise InputError(
            f"{file} must give the shape of {row.get('varname')!r} like (3, 3, 1, 16), found "
            f"{row.get('shape')!r}"
        )
    return tuple(shape)
