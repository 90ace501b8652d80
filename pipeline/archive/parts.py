"""The catalog of a zoo: read from its parts, or from the consolidated files of a sealed zoo."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate

import pyarrow as pa

from pipeline.archive.catalog import CatalogPart, ShardMark, not_committed, read_part
from pipeline.archive.consolidated import ROWS, SHARDS, read_marks, read_rows
from pipeline.archive.record import ShardRecord
from pipeline.errors import ArchiveError
from pipeline.location import Location

READERS = 4
"""Number of parts that are read at the same time."""


class Catalog:
    """The catalog of committed shards, in plan order. Everything raises ArchiveError for damage."""

    def __init__(
        self,
        folder: Location,
        schema: pa.Schema,
        shards: Sequence[ShardRecord],
        checksums: Mapping[str, str] | None,
    ):
        """`checksums` of the parts are those in the seal; None if the zoo is not finished."""
        self._folder, self._schema, self._checksums = folder, schema, checksums
        self._shards = {shard.name: shard for shard in shards}

    def read_part(self, name: str) -> CatalogPart:
        """Read a part again; ArchiveError also if it was not committed when the zoo was opened."""
        if name not in self._shards:
            raise ArchiveError(not_committed(self._folder, name))
        checksum, size = (self._checksums or {}).get(name), self._shards[name].num_members
        return read_part(self._folder, name, self._schema, checksum, size)

    def part(self, name: str) -> CatalogPart:
        """A part; does not read the others."""
        are_read = {"parts", "_parts_by_themselves"} & self.__dict__.keys()
        return self.parts[name] if are_read else self.read_part(name)

    @cached_property
    def parts(self) -> dict[str, CatalogPart]:
        """By shard name."""
        rows = self._consolidated_rows
        if rows is None or self._checksums is None:
            return self._parts_by_themselves
        sizes = [shard.num_members for shard in self._shards.values()]
        return {
            name: CatalogPart(rows.slice(start, size), self.marks[name], self._checksums[name])
            for name, start, size in zip(
                self._shards, accumulate(sizes, initial=0), sizes, strict=False
            )
        }

    @cached_property
    def _parts_by_themselves(self) -> dict[str, CatalogPart]:
        with ThreadPoolExecutor(READERS) as pool:
            return dict(zip(self._shards, pool.map(self.read_part, self._shards), strict=True))

    @cached_property
    def _consolidated_rows(self) -> pa.Table | None:
        rows = self._consolidated(self._schema.names)
        if rows is not None and not rows.schema.equals(self._schema):
            raise ArchiveError(
                f"{self._folder / ROWS} must have columns {self._schema.names}, found "
                f"{rows.column_names}: delete it"
            )
        return rows

    def _consolidated(self, names: Sequence[str]) -> pa.Table | None:
        if self._checksums is None:
            return None
        rows = read_rows(self._folder, self._checksums, names)
        size = sum(shard.num_members for shard in self._shards.values())
        if rows is not None and len(rows) != size:
            raise ArchiveError(
                f"{self._folder / ROWS} must have {size} rows, found {len(rows)}: delete it"
            )
        return rows

    @cached_property
    def rows(self) -> pa.Table:
        """One row per member."""
        if self._consolidated_rows is not None:
            return self._consolidated_rows
        tables = [part.table for part in self._parts_by_themselves.values()]
        return pa.concat_tables(tables) if tables else self._schema.empty_table()

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of the rows; avoids reading the others if it can.

        Raises KeyError for a column that the catalog does not have.
        """
        if "rows" not in self.__dict__ and (found := self._consolidated(names)) is not None:
            return found.select(names)
        return self.rows.select(names)

    @cached_property
    def marks(self) -> dict[str, ShardMark]:
        """By shard name."""
        marks = None if self._checksums is None else read_marks(self._folder, self._checksums)
        if marks is None:
            return {name: part.mark for name, part in self._parts_by_themselves.items()}
        if list(marks) != list(self._shards):
            raise ArchiveError(
                f"{self._folder / SHARDS} must name the shards of the plan in order: delete it"
            )
        return marks
