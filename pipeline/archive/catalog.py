"""The catalog: one Parquet file per shard, one row per member.

The file is written after its shard and commits it.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.archive.files import sha256, write_atomic
from pipeline.errors import ArchiveError
from pipeline.location import Location

MARK, BLOCKS = b"dwszoo.shard", b"dwszoo.blocks"
REBUILD = "`dwszoo zoo build` (or `import`, `merge`) makes its shard again"


@dataclass(frozen=True)
class BlockMark:
    """Where the tensors of a block are in its shard."""

    start: int
    num_bytes: int
    num_members: int
    sha256: str
    """Checksum of these bytes, a safetensors file."""


@dataclass(frozen=True)
class ShardMark:
    """The checksum, size and blocks of a shard, as its catalog part has them."""

    sha256: str
    num_bytes: int
    blocks: tuple[BlockMark, ...] | None = None
    """All blocks, in order; None if an older dwszoo wrote the part."""


@dataclass(frozen=True)
class CatalogPart:
    table: pa.Table
    mark: ShardMark
    sha256: str
    """Checksum of the catalog part."""


def part_path(folder: Location, shard: str) -> Location:
    return folder / "catalog" / f"{shard}.parquet"


def shard_path(folder: Location, shard: str) -> Location:
    return folder / "shards" / f"{shard}.tar"


def not_committed(folder: Location, shard: str) -> str:
    return (
        f"shard {shard} is not committed: expected its catalog part {part_path(folder, shard)}, "
        "found none; `dwszoo zoo build` (or `import`, `merge`) makes what is missing"
    )


def write_part(
    folder: Location,
    shard: str,
    columns: Mapping[str, np.ndarray | pa.Array | list],
    mark: ShardMark,
    schema: pa.Schema,
):
    """Commit a shard: write its rows and its checksum, with a checksum on every page."""
    metadata = {
        MARK: json.dumps({"sha256": mark.sha256, "num_bytes": mark.num_bytes}).encode(),
        BLOCKS: json.dumps([astuple(block) for block in mark.blocks or ()]).encode(),
    }
    table = pa.table(columns, schema=schema.with_metadata(metadata))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    write_atomic(part_path(folder, shard), buffer.getvalue())


def read_part(
    folder: Location,
    shard: str,
    schema: pa.Schema,
    checksum: str | None = None,
    num_members: int | None = None,
) -> CatalogPart:
    """Read a catalog part. Raises ArchiveError if it is missing, damaged or of another shard.

    `checksum` is its sha256 once the zoo is sealed, `num_members` the planned number of rows.
    """
    path = part_path(folder, shard)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ArchiveError(not_committed(folder, shard)) from None
    digest = sha256(data)
    if checksum not in (None, digest):
        raise ArchiveError(
            f"catalog part {path} must have sha256 {checksum}, found {digest}: {REBUILD}"
        )
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        if num_members not in (
            None,
            file.metadata.num_rows,
        ):  # before anything is allocated for them
            raise ValueError(f"must have {num_members} rows, found {file.metadata.num_rows}")
        # Without threads: an Arrow thread that still holds `data` when the interpreter exits
        # aborts the process.
        table = file.read(use_threads=False)
        table.validate(full=True)
        mark = mark_in(table.schema.metadata or {})
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise ArchiveError(
            f"catalog part {path} is damaged ({' '.join(str(error).split())}): {REBUILD}"
        ) from error
    table = with_later_columns(table, schema)
    if not table.schema.equals(schema):
        raise ArchiveError(
            f"catalog part {path} must have columns {schema.names}, found {table.schema.names}: "
            f"{REBUILD}"
        )
    for name, value in (("shard", shard), ("split", shard.rpartition("-")[0])):
        if others := [other for other in table[name].unique().to_pylist() if other != value]:
            raise ArchiveError(
                f"catalog part {path} must have {value!r} as {name} in all rows, found "
                f"{others[0]!r}: {REBUILD}"
            )
    return CatalogPart(table.replace_schema_metadata(None), mark, digest)


def mark_in(metadata: Mapping[bytes, bytes]) -> ShardMark:
    """Raises KeyError, TypeError or ValueError if `metadata` is not what `write_part` writes."""
    blocks = json.loads(metadata[BLOCKS]) if BLOCKS in metadata else None
    marks = None if blocks is None else tuple(BlockMark(*block) for block in blocks)
    if any(type(number) is not int for mark in marks or () for number in astuple(mark)[:3]):
        raise ValueError("a block must have a start, num_bytes and num_members")
    return ShardMark(**json.loads(metadata[MARK]), blocks=marks)


def with_later_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Add columns of later schema versions to a part, filled with null, and relax nullability.

    Some columns that may be null now could not be in older versions.
    """
    for place, field in enumerate(schema):
        if field.name not in table.column_names and b"since" in (field.metadata or {}):
            table = table.add_column(place, field, pa.nulls(len(table), field.type))
    if table.schema.names != schema.names:
        return table
    fields = [
        theirs.with_nullable(theirs.nullable or ours.nullable)
        for theirs, ours in zip(table.schema, schema, strict=True)
    ]
    return pa.table(table.columns, schema=pa.schema(fields, table.schema.metadata))
