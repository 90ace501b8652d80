"""Merging zoos of one architecture: each shard becomes one of the same split with the same tensors.

What identifies members must remain unique. Keys and names of runs get the zoo's fingerprint as a
prefix. Zoos made from the same sources keep the numbers of their sources, and number the views of a
source consecutively; all other sources get new numbers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive.files import sha256
from pipeline.archive.plan import SPLITS
from pipeline.archive.record import SCHEMA_VERSION, ShardRecord, SignalsRecord, ZooRecord
from pipeline.archive.schemas import merged_schema
from pipeline.archive.write import claim_zoo, commit_blocks
from pipeline.archive.zoo import Zoo, column
from pipeline.config import MergeConfig, fingerprint
from pipeline.errors import InputError
from pipeline.location import Location

NAMES = ("key", "run")
"""Columns of names that are unique in one zoo only."""
CLASSES = ("label", "class_0", "class_1")
"""Columns of positions in the list of class names."""


@dataclass(frozen=True)
class Source:
    """One of the zoos that are merged, and how its members are renumbered."""

    zoo: Zoo
    first_source: int
    first_view: int
    classes: list[int]
    """Position of each of its classes among the classes of all zoos."""


@dataclass(frozen=True)
class MergePlan:
    record: ZooRecord
    shards: dict[str, tuple[Source, str]]
    """Per shard: the zoo that it comes from, and its name there."""


def plan_merge(places: Sequence[Location], folder: Location) -> MergePlan:
    """Compare the zoos, plan every shard, write zoo.json.

    Raises InputError if the architectures differ or a source is in different splits, ArchiveError
    if a zoo is not finished.
    """
    zoos = [Zoo.open(place) for place in places]
    check_alike(zoos)
    check_columns(zoos)
    check_sides(zoos)
    class_names = tuple(
        dict.fromkeys(name for zoo in zoos for name in zoo.record.signals.class_names)
    )
    sources = number_sources(zoos, class_names)
    shards: dict[str, Any] = {}
    for split in SPLITS:
        theirs = [
            (source, shard.name)
            for source in sources
            for shard in source.zoo.record.shards
            if shard.split == split
        ]
        shards |= {f"{split}-{number:06d}": shard for number, shard in enumerate(theirs)}
    record = make_record(zoos, class_names, shards)
    claim_zoo(folder, record)
    return MergePlan(record, shards)


def merge_shard(plan: MergePlan, folder: Location, name: str) -> int:
    """Commit a shard; returns its number of members.

    Raises ArchiveError if its original is damaged.
    """
    source, theirs = plan.shards[name]
    zoo, prefix, schema = source.zoo, f"{source.zoo.record.fingerprint}-", plan.record.schema
    part = zoo.parts[theirs]
    blocks = [
        (block, [prefix + key for key in keys]) for block, keys in zoo.read_shard(theirs, part)
    ]
    columns = dict(zip(part.table.column_names, part.table.columns, strict=True))
    columns["shard"] = [name] * len(part.table)
    columns["source_index"] = pc.add(columns["source_index"], source.first_source)
    columns["view"] = pc.add(columns["view"], pa.scalar(source.first_view, pa.int32()))
    for own in NAMES:
        if own in columns:
            columns[own] = pc.binary_join_element_wise(prefix, columns[own].cast(pa.string()), "")
    if source.classes != list(range(len(source.classes))):
        places = pa.array(source.classes, pa.int64())
        columns |= {
            own: places.take(columns[own].combine_chunks()) for own in CLASSES if own in columns
        }
    missing = {
        field.name: pa.nulls(len(part.table), field.type)
        for field in schema
        if field.name not in columns
    }
    commit_blocks(folder, name, blocks, columns | missing, schema)
    return len(part.table)


def check_alike(zoos: Sequence[Zoo]):
    """Raises InputError if zoos cannot be merged, with what differs between which two."""
    first, seen = zoos[0], dict[str, Zoo]()
    for zoo in zoos:
        record, _ = zoo.record, zoo.seal
        if record.merged:
            raise InputError(
                f"zoo {zoo.folder} is itself merged: merge the zoos it was made from, "
                f"{', '.join(getattr(record.config, 'paths', ()))}"
            )
        if (twin := seen.setdefault(record.fingerprint, zoo)) is not zoo:
            raise InputError(
                f"zoos {twin.folder} and {zoo.folder} are the same, {record.fingerprint}: name "
                "each once"
            )
        theirs, ours = (
            {"tensors": one.record.tensors} | one.record.decode.model_dump(mode="json")
            for one in (zoo, first)
        )
        for field, value in theirs.items():
            if json.dumps(value) != json.dumps(ours[field]):
                raise InputError(
                    f"zoo {zoo.folder} must have {field} {ours[field]} to be merged with "
                    f"{first.folder}, found {value}"
                )
        if bool(record.signals.class_names) != bool(first.record.signals.class_names):
            raise InputError(
                f"zoos {first.folder} and {zoo.folder} must both have names of classes, found them "
                "in one"
            )
    if len(zoos) < 2:
        raise InputError(f"expected two zoos or more to merge, found {first.folder} alone")


def check_columns(zoos: Sequence[Zoo]):
    try:
        merged_schema([zoo.record.schema for zoo in zoos])
    except ValueError as error:
        raise InputError(
            f"zoos {', '.join(str(zoo.folder) for zoo in zoos)} cannot be merged: {error}"
        ) from error


def check_sides(zoos: Sequence[Zoo]):
    """Raises InputError if a source is in different splits of two zoos: test data would leak."""
    sides: dict[tuple[str, int], tuple[str, Zoo]] = {}
    for zoo in zoos:
        counted = zoo.record.sources
        pairs = zoo.catalog.group_by(["source_index", "split"]).aggregate([])
        for source, split in zip(
            column(pairs, "source_index").tolist(), pairs["split"].to_pylist(), strict=True
        ):
            other, twin = sides.setdefault((counted, source), (split, zoo))
            if other != split:
                raise InputError(
                    f"source {source} of {zoo.record.signals.name} is in the {other} split of zoo "
                    f"{twin.folder} and in the {split} split of zoo {zoo.folder}: build them with "
                    "the same splits (seed and fractions) to merge them"
                )


def number_sources(zoos: Sequence[Zoo], class_names: tuple[str, ...]) -> list[Source]:
    sizes: dict[str, int] = {}
    for zoo in zoos:
        size = 1 + pc.max(zoo.catalog["source_index"]).as_py()
        sizes[zoo.record.sources] = max(size, sizes.get(zoo.record.sources, 0))
    starts = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
    views = dict.fromkeys(sizes, 0)
    sources = []
    for zoo in zoos:
        counted, classes = (
            zoo.record.sources,
            [class_names.index(name) for name in zoo.record.signals.class_names],
        )
        sources.append(Source(zoo, starts[counted], views[counted], classes))
        views[counted] += 1 + pc.max(zoo.catalog["view"]).as_py()
    return sources


def make_record(
    zoos: Sequence[Zoo], class_names: tuple[str, ...], shards: dict[str, tuple[Source, str]]
) -> ZooRecord:
    records = [zoo.record for zoo in zoos]
    signals = {record.signals.digest: record.signals for record in records}
    grids = {record.signals.grid for record in records}
    digest = sha256(json.dumps(list(signals)).encode())
    config = MergeConfig(
        zoos=tuple((zoo.record.fingerprint, sha256(zoo.seal_bytes)) for zoo in zoos),
        paths=tuple(str(zoo.folder.resolve()) for zoo in zoos),
    )
    return ZooRecord(
        format="dwszoo",
        schema_version=SCHEMA_VERSION,
        fingerprint=fingerprint(config.identity() | {"signals digest": digest}),
        config=config,
        signals=SignalsRecord(
            name=" + ".join(dict.fromkeys(record.signals.name for record in records)),
            num_signals=sum(record.num_signals for record in signals.values()),
            digest=digest,
            grid=grids.pop() if len(grids) == 1 else (),
            num_channels=records[0].signals.num_channels,
            class_names=class_names,
        ),
        tensors=records[0].tensors,
        decode=records[0].decode,
        shards=tuple(
            ShardRecord(
                name=name,
                split=name.rsplit("-", 1)[0],
                num_members=len(source.zoo.parts[theirs].table),
            )
            for name, (source, theirs) in shards.items()
        ),
        merged=tuple(records),
    )
