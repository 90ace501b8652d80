"""Reads CSV tables of other programs, keeping the positions of rows and detecting numbers."""

import csv
import gzip
import io
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline.errors import InputError
from pipeline.exchange.rows import KNOWN_TYPES, renamed
from pipeline.exchange.source import MAX_TEXT


def read_table(file: Path, ours: Mapping[str, str]) -> tuple[pa.Table, dict[int, str]]:
    """The rows of a gzip file, and the problems of rows of the wrong length, which become null.

    `ours` maps names of columns to ours. Columns without a name are dropped.
    """
    # An invalid UTF-8 byte affects its own value only.
    content = inflate(file).decode("utf-8-sig", "backslashreplace").encode()
    problems: dict[int, str] = {}

    def note(row: pyarrow.csv.InvalidRow) -> str:
        found = f"found {row.actual_columns}: {row.text[:60]!r}"
        problems[row.number - 2] = (  # counted from 1, including the header
            f"{file.name} must have {row.expected_columns} values per row, {found}"
        )
        return "skip"

    try:
        names = next(csv.reader(io.StringIO(content.decode())), [])
        table = pyarrow.csv.read_csv(
            pa.BufferReader(content),
            # In one block, so that rows have their numbers.
            pyarrow.csv.ReadOptions(use_threads=False, block_size=len(content) + 1),
            pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except (pa.ArrowException, csv.Error) as error:
        raise InputError(f"{file} must be a table of comma-separated values ({error})") from error
    if len(set(table.column_names)) < table.num_columns:
        raise InputError(f"{file} must have columns of unique names, found {table.column_names}")
    sound = np.full(len(table) + len(problems), True)
    sound[[*problems]] = False
    table = table.take(pa.array(np.cumsum(sound) - 1, mask=~sound))
    columns = {
        name: column if is_text(ours.get(name, name)) else in_numbers(column)
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name and not name.startswith("Unnamed")
    }
    return renamed(pa.table(columns), ours), problems


def is_text(name: str) -> bool:
    return KNOWN_TYPES.get(name) == pa.string()


def in_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings as numbers or booleans if all of them are; `007` is a string."""
    if column.null_count == len(column):
        return column
    if pc.any(pc.match_substring_regex(column, r"^-?0\d")).as_py():
        return column
    for kind in (pa.int64(), pa.uint64(), pa.float64(), pa.bool_()):
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            continue
    return column


def inflate(file: Path) -> bytes:
    """The contents of a gzip file. Raises InputError if it is invalid or too large (`MAX_TEXT`)."""
    try:
        with gzip.open(file) as packed:
            content = packed.read(MAX_TEXT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} must be a complete gzip file ({error})") from error
    if len(content) > MAX_TEXT:
        raise InputError(f"{file} must have at most {MAX_TEXT:,} bytes of text")
    return content
