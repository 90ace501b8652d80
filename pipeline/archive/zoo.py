"""Reading a zoo: catalog, state dicts, blocks."""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset

from dwsnet.weight_space import WeightSpace
from pipeline.archive.catalog import CatalogPart, ShardMark, not_committed, part_path, shard_path
from pipeline.archive.dataset import ZooDataset, collatable
from pipeline.archive.files import list_files, parse_json
from pipeline.archive.growing import sealed_zoo_json
from pipeline.archive.indexing import chosen_rows, rows_where, without_weights
from pipeline.archive.originals import original_signals, why_unknown
from pipeline.archive.parts import Catalog
from pipeline.archive.plan import SPLITS
from pipeline.archive.record import (
    ShardRecord,
    ZooRecord,
    first_problem,
    parse_record,
    read_zoo_json,
)
from pipeline.archive.seal import SEAL, Seal
from pipeline.archive.shard import REBUILD, Block, are_members, read_blocks
from pipeline.decode import Decoder, Network
from pipeline.errors import ArchiveError, InputError, nearest
from pipeline.location import Location, locate
from pipeline.signals import Signals

CACHED_SHARDS = 64
"""Number of decoded shards that a `Zoo` caches."""
READ_AHEAD = 2
"""Number of shards that are read and verified in advance."""


class Zoo(Dataset[Block]):
    """A zoo, opened for reading. Every shard is checked against its checksum when first read.

    It is a sequence of members in catalog order, and so a map-style PyTorch dataset; `dataset` is
    the one of a split, `IterableZoo` the iterable one. A zoo under construction has the shards that
    were committed when it was opened.
    """

    def __init__(
        self,
        folder: Location,
        record: ZooRecord,
        shards: tuple[ShardRecord, ...],
        seal: bytes | None,
        trusted: Collection[str] = (),
    ):
        self.trusted = frozenset(trusted)
        self.folder, self.record, self.shards = folder, record, shards
        self.space: WeightSpace = record.space
        self._seal, self._names = seal, {shard.name for shard in shards}
        self._shard = lru_cache(CACHED_SHARDS)(self._read_shard)

    @classmethod
    def open(cls, place: str | Location, trusted: Collection[str] = ()) -> "Zoo":
        """Open the zoo at a path or a URI of `pyarrow.fs`, such as `s3://bucket/zoo`.

        If its signals were made by a function, this is called only if its module is one of
        `trusted`. Raises InputError if there is no zoo, ArchiveError if it is damaged.
        """
        folder = locate(place)
        data = read_zoo_json(folder)
        try:
            seal = (folder / SEAL).read_bytes()
        except FileNotFoundError:
            return cls.under_construction(folder, parse_record(folder, data), trusted)
        record = parse_record(folder, sealed_zoo_json(folder, data, seal))
        return cls(folder, record, record.shards, seal, trusted)

    @classmethod
    def under_construction(
        cls, folder: Location, record: ZooRecord, trusted: Collection[str] = ()
    ) -> "Zoo":
        """The committed part of the zoo that a record plans."""
        parts = list_files(folder / "catalog")
        committed = (shard for shard in record.shards if part_path(folder, shard.name) in parts)
        return cls(folder, record, tuple(committed), None, trusted)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles neither catalog nor shards, which DataLoader workers read for themselves."""
        return Zoo, (self.folder.resolve(), self.record, self.shards, self._seal, self.trusted)

    def __repr__(self) -> str:
        sizes = {
            split: sum(shard.num_members for shard in self.shards if shard.split == split)
            for split in SPLITS
        }
        splits = ", ".join(f"{split} {size:,}" for split, size in sizes.items() if size)
        return (
            f"<Zoo {self.folder}: {sum(sizes.values()):,} members ({splits or 'none yet'}), "
            f"{self.record.architecture}, {self.space.num_parameters:,} parameters, {self.state}>"
        )

    @property
    def state(self) -> str:
        """'finished', or 'partial' with the number of committed shards."""
        return "finished" if self.is_sealed else f"partial: {self._committed}"

    @property
    def _committed(self) -> str:
        return f"{len(self.shards):,} of {len(self.record.shards):,} shards are committed"

    @cached_property
    def _catalog(self) -> Catalog:
        checksums = self.seal.catalog if self.is_sealed else None
        return Catalog(self.folder, self.record.schema, self.shards, checksums)

    @property
    def parts(self) -> dict[str, CatalogPart]:
        """The catalog part of each shard. Raises ArchiveError if one is missing or damaged."""
        return self._catalog.parts

    @property
    def marks(self) -> dict[str, ShardMark]:
        """The mark of each shard: checksum, size, positions of blocks. Raises like `parts`."""
        return self._catalog.marks

    def read_part(self, shard: ShardRecord) -> CatalogPart:
        """Read the catalog part of a shard again.

        Raises ArchiveError if it differs from what was committed, or was not committed when the zoo
        was opened.
        """
        return self._catalog.read_part(shard.name)

    @cached_property
    def catalog(self) -> pa.Table:
        """One row per member, in plan order, with the columns of `record.schema`."""
        return self._catalog.rows

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of the catalog; avoids reading the others."""
        return self._catalog.columns(names)

    @property
    def is_sealed(self) -> bool:
        """Whether the zoo was finished when it was opened."""
        return self._seal is not None

    def require_finished(self):
        """Raises ArchiveError if the zoo is under construction."""
        if not self.is_sealed:
            raise ArchiveError(
                f"zoo {self.folder} is not finished: {SEAL} is missing and {self._committed}; "
                "`dwszoo zoo build` (or `import`, `merge`) finishes it"
            )

    def require_weights(self):
        """Raises InputError if no member has weights."""
        if not len(self.where(pc.field("status") == "ok")):
            raise InputError(
                f"zoo {self.folder} must have members with weights, all of them failed"
            )

    def require_columns(self, names: Sequence[str], purpose: str = ""):
        """Raises InputError if the catalog, written or not, lacks a column; `purpose` says why."""
        if isinstance(names, str):
            raise InputError(f"columns must be a list of names, got {names!r}: pass [{names!r}]")
        known = self.record.schema.names
        for name in names:
            if name not in known:
                raise InputError(
                    f"the catalog of zoo {self.folder} has no column {name!r}{purpose}: "
                    f"its columns are {', '.join(known)}{nearest(name, known)}"
                )

    @cached_property
    def seal(self) -> Seal:
        """The content of statistics.json. Raises ArchiveError if the zoo is not finished."""
        try:
            return Seal.model_validate(parse_json(self.seal_bytes))
        except ValueError as error:
            raise ArchiveError(
                f"{self.folder / SEAL} is damaged ({first_problem(error)}): delete it and run "
                "`dwszoo zoo build` (or `import`, `merge`)"
            ) from error

    @property
    def seal_bytes(self) -> bytes:
        """The bytes of statistics.json, whose checksums cover the whole zoo.

        Raises ArchiveError if the zoo is not finished.
        """
        self.require_finished()
        assert self._seal is not None
        return self._seal

    @property
    def statistics(self) -> dict[str, dict[str, float]]:
        """Mean and std of each tensor over the train split."""
        return {
            name: {"mean": moments.mean, "std": moments.std}
            for name, moments in self.seal.tensors.items()
        }

    def members(self, split: str) -> pa.Table:
        """The catalog rows of the members of `split` that have weights."""
        return self.catalog.filter(self._are_members(split))

    def _are_members(self, split: str) -> pc.Expression:
        self.shards_of(split)
        return (pc.field("split") == split) & (pc.field("status") == "ok")

    def dataset(self, split: str, columns: Sequence[str] = ()) -> ZooDataset:
        """The members of a split that have weights, as `(state dict, *columns)`, in plan order.

        `DataLoader(zoo.dataset("train", ["label"]), batch_size=64, shuffle=True)` yields stacked
        state dicts, and the columns of the catalog as `collatable` says. Raises InputError for a
        split or a column that the zoo lacks.
        """
        are_members = self._are_members(split)
        self.require_columns(columns)
        rows = self.where(are_members)
        table = self.catalog.select(list(dict.fromkeys(columns))).take(rows)
        return ZooDataset(self, rows, [collatable(table, name) for name in columns])

    def where(self, condition: pc.Expression) -> np.ndarray:
        """Catalog rows that meet a condition: `zoo[zoo.where(pc.field("psnr") > 30)]`.

        Raises InputError if the condition cannot be evaluated on the catalog.
        """
        return rows_where(condition, self.catalog, self.folder)

    def shards_of(self, split: str) -> list[ShardRecord]:
        """The shards of a split, in plan order. Raises InputError if there is no such split."""
        if split not in SPLITS:
            raise InputError(
                f"a zoo has no split {split!r}: expected one of "
                f"{', '.join(SPLITS)}{nearest(split, SPLITS)}"
            )
        return [shard for shard in self.shards if shard.split == split]

    def blocks(self, split: str) -> Iterator[tuple[Block, pa.Table]]:
        """Every block of `split` with its catalog rows, in plan order; reads ahead in threads.

        Blocks are read again each time, so the caller may modify them. Raises InputError if there
        is no such split.
        """
        return self.blocks_of(self.shards_of(split))

    def blocks_of(self, shards: Sequence[ShardRecord]) -> Iterator[tuple[Block, pa.Table]]:
        """Like `blocks`, for these shards."""
        names = [shard.name for shard in shards]
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
        """The blocks of a shard, which are cached and must not be modified.

        Raises InputError if the plan has no such shard, ArchiveError if it is missing or differs
        from what was committed.
        """
        names = [shard.name for shard in self.record.shards]
        if name not in names:
            raise InputError(f"zoo {self.folder} has no shard {name!r}{nearest(name, names)}")
        if name not in self._names:
            raise ArchiveError(not_committed(self.folder, name))
        return self._shard(name)

    def _read_shard(self, name: str) -> list[Block]:
        return [block for block, _ in self.read_shard(name, self._catalog.part(name))]

    def read_shard(self, name: str, part: CatalogPart) -> list[tuple[Block, list[str]]]:
        """Read the blocks of a shard again, with their keys.

        Raises ArchiveError if it is missing, differs from what was committed, or has other members
        than its catalog part.
        """
        blocks = read_blocks(shard_path(self.folder, name), name, part.mark, self.space)
        if not are_members(part.table, [keys for _, keys in blocks]):
            raise ArchiveError(
                f"catalog part of shard {name} must name the members of its blocks in order: "
                f"{REBUILD}"
            )
        return blocks

    def __len__(self) -> int:
        return sum(shard.num_members for shard in self.shards)

    def __iter__(self) -> Iterator[Block]:
        """The state dict of each member: `zoo[0]`, `zoo[1]`, ..."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> Block:
        """A copy of the state dict of the member in catalog row `index`, which may be negative.

        For a slice, indices or a mask over all members: stacked state dicts, `(members, *shape)`.
        Raises IndexError outside the zoo, TypeError for anything that is not an index, ArchiveError
        for a member whose fit failed.
        """
        rows = chosen_rows(index, len(self), self.folder)
        shard, block, row = self._places[:, rows]
        if (block < 0).any():
            raise ArchiveError(without_weights(self.catalog, rows[block < 0]))
        if rows.ndim == 0:
            own = self.shard(self.shards[shard].name)[block]
            return {name: tensor[row].clone() for name, tensor in own.items()}
        members = {spec.name: torch.empty(len(rows), *spec.shape) for spec in self.space.tensors}
        for place in set(zip(shard.tolist(), block.tolist(), strict=True)):
            hit = np.flatnonzero((shard == place[0]) & (block == place[1]))
            own = self.shard(self.shards[place[0]].name)[place[1]]
            for name, tensor in members.items():
                tensor[hit] = own[name][row[hit]]
        return members

    @cached_property
    def _places(self) -> np.ndarray:
        """`(3, members)` int64: shard, block and row; the last two are -1 without weights."""
        shard = np.repeat(np.arange(len(self.shards)), [shard.num_members for shard in self.shards])
        columns = self.columns(["block", "row"]).columns
        block, row = (pc.fill_null(column, -1).to_numpy() for column in columns)
        return np.stack([shard, block, row])

    def module(self, index: int) -> Network:
        """The member in catalog row `index` as a torch module with its own copy of the weights.

        It maps coordinates to values (INRs) or images to logits (classifiers). Raises ArchiveError
        if its fit failed, InputError if the zoo does not say how to run its members.
        """
        row = chosen_rows(index, len(self), self.folder)
        if row.ndim:
            raise TypeError(f"one member is a module, got {index!r}")
        position = int(row)
        activation = self.catalog.slice(position, 1).to_pylist()[0].get("activation")
        return Network(self.decoder, self[position], activation)

    @cached_property
    def decoder(self) -> Decoder:
        """Runs members of the zoo, many at once: `zoo.decoder(state, inputs)`.

        Raises InputError if the zoo does not say how to run its members.
        """
        return Decoder(self.record.decode, self.space, f"zoo {self.folder}")

    def signals(
        self, source: Signals | Path | str | None = None, trusted: Collection[str] | None = None
    ) -> Signals:
        """The signals that the zoo was fitted to; for classifiers, the images of their classes.

        A member was fitted to `values[source_index]`. The order is that of their source; signals
        that the zoo grew by come last.

        They are read from where zoo.json says, which may have more signals by now, or from the path
        `source`; or `source` is the signals themselves. A function of the user is called only if
        its module is one of `trusted`, by default those that the zoo was opened with. Raises
        InputError if the signals are not known, are missing, or are not those that were fitted.
        """
        trusted = self.trusted if trusted is None else trusted
        return original_signals(self.folder, self.record, source, trusted, self.source_names)

    def source_names(self) -> list[str | None]:
        """For a zoo of INRs, the name of each signal in its source, by `source_index`, or None."""
        table = self.columns(["source_index", "source_name"])
        first = np.unique(column(table, "source_index"), return_index=True)[1]
        return table["source_name"].take(first).to_pylist()

    @property
    def why_no_signals(self) -> str | None:
        """Why `signals()` cannot read them; None if it can try."""
        return why_unknown(self.record, self.trusted)


def column(table: pa.Table, name: str) -> np.ndarray:
    """A column without nulls as a NumPy array."""
    return table[name].to_numpy()
