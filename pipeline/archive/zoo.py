"""Reading a zoo: catalog, state dicts, blocks."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dwsnet.weight_space import WeightSpace
from pipeline.archive import catalog
from pipeline.archive.files import read_array, read_json, sha256
from pipeline.archive.network import Network
from pipeline.archive.record import ZooRecord, read_record
from pipeline.archive.shard import Block, decode_shard
from pipeline.errors import ArchiveError
from pipeline.location import Location, locate

SEAL = "statistics.json"
"""Written last: a zoo that has it is finished."""
CACHED_SHARDS = 64
"""Decoded shards that a `Zoo` keeps."""
READ_AHEAD = 2
"""Shards that are read and checked while another is used."""
REBUILD = "`dwszoo zoo build` (or `import`, `merge`) makes it again"


class Zoo:
    """A zoo, opened for reading. Every shard is checked against its checksum when first read."""

    def __init__(self, folder: Location, record: ZooRecord):
        self.folder, self.record = folder, record
        self.space: WeightSpace = record.space
        self._shard = lru_cache(CACHED_SHARDS)(self._read_shard)

    @classmethod
    def open(cls, place: str | Location) -> "Zoo":
        """A zoo at a path or a URI of `pyarrow.fs`, such as `s3://bucket/zoo`.

        Raises InputError where there is no zoo, ArchiveError where it is damaged.
        """
        folder = locate(place)
        return cls(folder, read_record(folder))

    @cached_property
    def parts(self) -> dict[str, catalog.CatalogPart]:
        """Catalog part of each shard. Raises ArchiveError where a shard is not committed."""
        checksums = self.seal["catalog"] if self.is_sealed else {}
        names, schema = [shard.name for shard in self.record.shards], self.record.schema
        with ThreadPoolExecutor(READ_AHEAD) as pool:
            parts = pool.map(lambda name: catalog.read_part(self.folder, name, checksums.get(name), schema), names)
            return dict(zip(names, parts, strict=True))

    @cached_property
    def catalog(self) -> pa.Table:
        """One row a member, in the order of the plan: columns as its record's schema says."""
        return pa.concat_tables([part.table for part in self.parts.values()])

    @property
    def is_sealed(self) -> bool:
        """Whether the zoo was finished."""
        return (self.folder / SEAL).exists()

    @cached_property
    def seal(self) -> dict[str, Any]:
        """The content of statistics.json. Raises ArchiveError where the zoo is not finished."""
        file = self.folder / SEAL
        if not self.is_sealed:
            raise ArchiveError(
                f"zoo {self.folder} is not finished: {SEAL} is missing; `dwszoo zoo build` (or `import`, `merge`) finishes it"
            )
        try:
            content = read_json(file)
            return {"zoo": str(content["zoo"])} | {name: dict(content[name]) for name in ("tensors", "catalog")}
        except (ValueError, TypeError, KeyError) as error:
            raise ArchiveError(
                f"{file} is damaged ({error!r}): delete it and run `dwszoo zoo build` (or `import`, `merge`)"
            ) from error

    @property
    def statistics(self) -> dict[str, dict[str, float]]:
        """Mean and std of each tensor over the train split."""
        return self.seal["tensors"]

    def members(self, split: str) -> pa.Table:
        """The catalog rows of the members of `split` that have weights."""
        return self.catalog.filter((pc.field("split") == split) & (pc.field("status") == "ok"))

    def where(self, condition: pc.Expression) -> np.ndarray:
        """Catalog rows that meet a condition: `zoo[i] for i in zoo.where(pc.field("psnr") > 30)`."""
        numbered = self.catalog.append_column("index", pa.array(np.arange(len(self))))
        return column(numbered.filter(condition), "index")

    def blocks(self, split: str) -> Iterator[tuple[Block, pa.Table]]:
        """Every block of `split` with its catalog rows, in the order of the plan; the next shards are read meanwhile.

        Read anew each time, and the caller's to keep or to change.
        """
        names = [shard.name for shard in self.record.shards if shard.split == split]
        with ThreadPoolExecutor(READ_AHEAD) as pool:
            coming = deque(pool.submit(self._read_shard, name) for name in names[:READ_AHEAD])
            for place, name in enumerate(names):
                table = self.parts[name].table
                rows, start = table.filter(pc.equal(table["status"], "ok")), 0
                blocks = coming.popleft().result()
                if place + READ_AHEAD < len(names):
                    coming.append(pool.submit(self._read_shard, names[place + READ_AHEAD]))
                for block in blocks:
                    num_members = len(next(iter(block.values())))
                    yield block, rows.slice(start, num_members)
                    start += num_members

    def shard(self, name: str) -> list[Block]:
        """The blocks of a shard, which stay cached: not to be written into.

        Raises ArchiveError where it is missing or its bytes are not those committed.
        """
        return self._shard(name)

    def _read_shard(self, name: str) -> list[Block]:
        return [block for block, _ in read_shard(self.folder, name, self.parts[name].mark, self.space)]

    def __len__(self) -> int:
        return len(self.catalog)

    def __getitem__(self, index: int) -> Block:
        """A copy of the state dict of the member in catalog row `index`. Raises ArchiveError where its fit failed."""
        row = self.catalog.slice(index, 1).to_pylist()[0]
        if row["block"] is None:
            raise ArchiveError(f"member {row['key']} has no weights: its fit failed ({row['stop_reason']})")
        block = self.shard(row["shard"])[row["block"]]
        return {name: tensor[row["row"]].clone() for name, tensor in block.items()}

    def module(self, index: int) -> Network:
        """The member in catalog row `index` as a torch module with its own state dict: an INR from coordinates to values, a
        classifier from images to logits.

        Raises ArchiveError where its fit failed, InputError where the zoo does not say how to run its members.
        """
        contract = self.record.decode.of_member(self.catalog.slice(index, 1).to_pylist()[0])
        return Network(contract, self[index], f"zoo {self.folder}")


def read_shard(folder: Location, name: str, mark: catalog.ShardMark, space: WeightSpace) -> list[tuple[Block, list[str]]]:
    """The blocks of a shard with their keys. Raises ArchiveError where it is missing or differs from what was committed."""
    path = catalog.shard_path(folder, name)
    try:
        data = read_array(path, mark.num_bytes)
    except FileNotFoundError:
        raise ArchiveError(f"shard {path} is missing though the catalog names it: {REBUILD}") from None
    except ValueError as error:
        raise ArchiveError(f"shard {error}: {REBUILD}") from error
    if (digest := sha256(data)) != mark.sha256:
        raise ArchiveError(f"shard {path} must have sha256 {mark.sha256}, found {digest}: {REBUILD}")
    return decode_shard(name, data, space)


def column(table: pa.Table, name: str) -> np.ndarray:
    """A column without nulls as numpy."""
    return table[name].to_numpy()
