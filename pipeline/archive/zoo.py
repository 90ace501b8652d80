"""Reading a zoo: catalog, state dicts, blocks."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import FiniteFloat

from dwsnet.weight_space import WeightSpace
from pipeline.archive.catalog import CatalogPart, read_part, shard_path
from pipeline.archive.files import read_array, read_json, sha256
from pipeline.archive.network import Network
from pipeline.archive.record import ShardRecord, ZooRecord, first_problem, read_record
from pipeline.archive.shard import Block, decode_shard
from pipeline.config import Frozen
from pipeline.errors import ArchiveError
from pipeline.location import Location, locate

SEAL = "statistics.json"
"""Written last: a zoo that has it is finished."""
CACHED_SHARDS = 64
"""Decoded shards that a `Zoo` keeps."""
READ_AHEAD = 2
"""Shards that are read and checked while another is used."""
REBUILD = "`dwszoo zoo build` (or `import`, `merge`) makes it again"


class Moments(Frozen):
    mean: FiniteFloat
    std: FiniteFloat


class Seal(Frozen):
    """The content of statistics.json."""

    split: str
    num_members: int
    """Over which the statistics were taken."""
    tensors: dict[str, Moments]
    zoo: str
    """sha256 of zoo.json."""
    catalog: dict[str, str]
    """sha256 of the catalog part of each shard."""


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
    def parts(self) -> dict[str, CatalogPart]:
        """Catalog part of each shard. Raises ArchiveError where a shard is not committed."""
        with ThreadPoolExecutor(READ_AHEAD) as pool:
            parts = pool.map(self.read_part, self.record.shards)
            return {shard.name: part for shard, part in zip(self.record.shards, parts, strict=True)}

    def read_part(self, shard: ShardRecord) -> CatalogPart:
        """The catalog part of a shard, read anew. Raises ArchiveError where it is not what was committed."""
        checksum = self.seal.catalog.get(shard.name) if self.is_sealed else None
        return read_part(self.folder, shard.name, checksum, self.record.schema, shard.num_members)

    @cached_property
    def catalog(self) -> pa.Table:
        """One row a member, in the order of the plan: columns as its record's schema says."""
        return pa.concat_tables([part.table for part in self.parts.values()])

    @cached_property
    def is_sealed(self) -> bool:
        """Whether the zoo was finished when this was first asked."""
        return (self.folder / SEAL).exists()

    @cached_property
    def seal(self) -> Seal:
        """The content of statistics.json. Raises ArchiveError where the zoo is not finished."""
        file = self.folder / SEAL
        if not self.is_sealed:
            raise ArchiveError(
                f"zoo {self.folder} is not finished: {SEAL} is missing; `dwszoo zoo build` (or `import`, `merge`) finishes it"
            )
        try:
            return Seal.model_validate(read_json(file))
        except ValueError as error:
            raise ArchiveError(
                f"{file} is damaged ({first_problem(error)}): delete it and run `dwszoo zoo build` (or `import`, `merge`)"
            ) from error

    @property
    def statistics(self) -> dict[str, dict[str, float]]:
        """Mean and std of each tensor over the train split."""
        return {
            name: {"mean": moments.mean, "std": moments.std}
            for name, moments in self.seal.tensors.items()
        }

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
        return [block for block, _ in self.read_shard(name, self.parts[name])]

    def read_shard(self, name: str, part: CatalogPart) -> list[tuple[Block, list[str]]]:
        """The blocks of a shard with their keys, read anew.

        Raises ArchiveError where it is missing, is not what was committed or has other members than its catalog part.
        """
        path, mark = shard_path(self.folder, name), part.mark
        try:
            data = read_array(path, mark.num_bytes)
        except FileNotFoundError:
            raise ArchiveError(
                f"shard {path} is missing though the catalog names it: {REBUILD}"
            ) from None
        except ValueError as error:
            raise ArchiveError(f"shard {error}: {REBUILD}") from error
        if (digest := sha256(data)) != mark.sha256:
            raise ArchiveError(
                f"shard {path} must have sha256 {mark.sha256}, found {digest}: {REBUILD}"
            )
        blocks = decode_shard(name, data, self.space)
        if not are_members(part.table, [keys for _, keys in blocks]):
            raise ArchiveError(
                f"catalog part of shard {name} must name the members of its blocks in order: {REBUILD}"
            )
        return blocks

    def __len__(self) -> int:
        return len(self.catalog)

    def __getitem__(self, index: int) -> Block:
        """A copy of the state dict of the member in catalog row `index`. Raises ArchiveError where its fit failed."""
        row = self.catalog.slice(index, 1).to_pylist()[0]
        if row["block"] is None:
            raise ArchiveError(
                f"member {row['key']} has no weights: its fit failed ({row['stop_reason']})"
            )
        block = self.shard(row["shard"])[row["block"]]
        return {name: tensor[row["row"]].clone() for name, tensor in block.items()}

    def module(self, index: int) -> Network:
        """The member in catalog row `index` as a torch module with its own state dict: an INR from coordinates to values, a
        classifier from images to logits.

        Raises ArchiveError where its fit failed, InputError where the zoo does not say how to run its members.
        """
        contract = self.record.decode.of_member(self.catalog.slice(index, 1).to_pylist()[0])
        return Network(contract, self[index], f"zoo {self.folder}")


def are_members(table: pa.Table, keys: list[list[str]]) -> bool:
    """Whether the rows that have weights are the members of these blocks, in order."""
    rows = table.select(["block", "row", "key"]).filter(pc.equal(table["status"], "ok"))
    sizes = np.array([len(block) for block in keys], np.int64)
    block = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    row = np.arange(sizes.sum(), dtype=np.int32) - np.repeat(
        np.cumsum(sizes) - sizes, sizes
    ).astype(np.int32)
    try:
        stored = pa.array(list(chain.from_iterable(keys)), pa.string())
    except ValueError:  # text that no catalog can hold
        return False
    return rows.equals(pa.table([block, row, stored], schema=rows.schema))


def column(table: pa.Table, name: str) -> np.ndarray:
    """A column without nulls as numpy."""
    return table[name].to_numpy()
