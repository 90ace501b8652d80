"""The catalog of a finished zoo in two files, so that a zoo of many shards opens fast.

`catalog.parquet` has the rows of all parts, `shards.parquet` the marks of all shards. Both record
which parts they were made from and are used only if the seal names the same parts. The parts
remain what commits a shard.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.archive.catalog import BlockMark, CatalogPart, ShardMark
from pipeline.archive.files import opened, sha256, write_atomic
from pipeline.errors import ArchiveError
from pipeline.location import Location

ROWS, SHARDS = "catalog.parquet", "shards.parquet"
PARTS = b"dwszoo.parts"
ROW_GROUP = 2**20
MARKS = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field(
            "blocks",
            pa.list_(
                pa.struct(
                    [
                        pa.field("start", pa.int64()),
                        pa.field("num_bytes", pa.int64()),
                        pa.field("num_members", pa.int64()),
                        pa.field("sha256", pa.string()),
                    ]
                )
            ),
            metadata={"doc": "null where an older version wrote the part"},
        ),
    ]
)


def write_consolidated(folder: Location, parts: Mapping[str, CatalogPart], rows: pa.Table):
    """Write both files, each atomically. They are written before the seal and unused without it."""
    columns = [
        {
            "shard": name,
            "sha256": part.mark.sha256,
            "num_bytes": part.mark.num_bytes,
            "blocks": None if (marks := part.mark.blocks) is None else [*map(asdict, marks)],
        }
        for name, part in parts.items()
    ]
    of_parts = {PARTS: digest_of({name: part.sha256 for name, part in parts.items()})}
    tables = {ROWS: rows, SHARDS: pa.Table.from_pylist(columns, MARKS)}
    for file, table in tables.items():
        buffer = io.BytesIO()
        pq.write_table(
            table.replace_schema_metadata(of_parts),
            buffer,
            row_group_size=ROW_GROUP,
            compression="zstd",
            write_page_checksum=True,
        )
        write_atomic(folder / file, buffer.getvalue())


def remove_consolidated(folder: Location):
    for file in (ROWS, SHARDS):
        (folder / file).unlink(missing_ok=True)


def digest_of(checksums: Mapping[str, str]) -> bytes:
    """sha256 over the sha256 of each part, as listed in the seal."""
    return sha256(json.dumps(dict(sorted(checksums.items()))).encode()).encode()


def read_rows(
    folder: Location, checksums: Mapping[str, str], names: Sequence[str] | None = None
) -> pa.Table | None:
    """The rows of all parts, or some of their columns; None if the file is missing or outdated.

    Raises ArchiveError if it is damaged.
    """
    return read_table(folder / ROWS, checksums, names)


def read_marks(folder: Location, checksums: Mapping[str, str]) -> dict[str, ShardMark] | None:
    """The mark of each shard by name; None if the file is missing or outdated.

    Raises ArchiveError if it is damaged.
    """
    table = read_table(folder / SHARDS, checksums)
    if table is None:
        return None
    return {
        row.pop("shard"): ShardMark(**row | {"blocks": block_marks(row["blocks"])})
        for row in table.to_pylist()
    }


def block_marks(blocks: list[dict] | None) -> tuple[BlockMark, ...] | None:
    return None if blocks is None else tuple(BlockMark(**block) for block in blocks)


def read_table(
    path: Location, checksums: Mapping[str, str], names: Sequence[str] | None = None
) -> pa.Table | None:
    filesystem, name = opened(path)
    try:
        with filesystem.open_input_file(name) as stream:
            data = stream.read_buffer()  # one request to an object store instead of one per read
    except FileNotFoundError:
        return None
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        if (file.schema_arrow.metadata or {}).get(PARTS) != digest_of(checksums):
            return None
        table = file.read(None if names is None else list(names))
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArchiveError(
            f"{path} is damaged ({' '.join(str(error).split())}): delete it; the catalog parts "
            "hold everything in it"
        ) from error
    return table.replace_schema_metadata(None)
