"""Building a zoo: plan, fit shard by shard, seal. Every step can be repeated; what is committed stays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from dwsnet.weight_space import WeightSpace
from pipeline.archive import catalog
from pipeline.archive.files import sha256, sweep_temporaries, write_atomic, write_json
from pipeline.archive.kinds import kind_of
from pipeline.archive.plan import ShardPlan
from pipeline.archive.record import (
    FILE,
    SCHEMA_VERSION,
    ZooRecord,
    make_record,
    read_record,
    write_record,
)
from pipeline.archive.seal import SEAL
from pipeline.archive.shard import Block, Members, encode_shard, pack_blocks
from pipeline.archive.statistics import compute_seal
from pipeline.archive.verify import shard_problems
from pipeline.archive.zoo import Zoo
from pipeline.config import AnyZooConfig, differences
from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.progress import Advance, untold
from pipeline.signals import Signals, check_signals, load_signals


@dataclass(frozen=True)
class ZooPlan:
    record: ZooRecord
    signals: Signals
    shards: list[ShardPlan]


@dataclass(frozen=True)
class ShardSummary:
    name: str
    num_members: int
    num_failed: int
    quality_sum: float
    """Over the members that did not fail: of the kind's `QUALITY`."""


def plan_zoo(config: AnyZooConfig, folder: Location, signals: Signals | None = None) -> ZooPlan:
    """Load the signals, or take those given, fix every member, write zoo.json.

    Raises InputError where `folder` holds a zoo of another configuration, and says which fields differ.
    """
    if signals is None:
        signals = load_signals(config.signals)
    elif config.signals.is_function:
        signals = check_signals(config.signals.source, signals)
    else:
        raise InputError(
            f"signals.source must name the function that made these signals, as module:function, got {config.signals.source!r}"
        )
    shards = kind_of(config).plan_shards(config, signals)
    record = make_record(config, signals, shards)
    claim_zoo(folder, record)
    return ZooPlan(record, signals, shards)


def claim_zoo(folder: Location, record: ZooRecord):
    """Make `folder` the place of this zoo: zoo.json, and nothing half-written.

    Raises InputError where it holds a zoo of another configuration, and says which fields differ.
    """
    for part in (folder / "shards", folder / "catalog"):
        part.mkdir(parents=True, exist_ok=True)
    if not (folder / FILE).exists():
        write_record(folder, record)
    old = read_record(folder)  # where nothing could be locked, perhaps another's by now
    if fields := differences(old.zoo_identity(), record.zoo_identity()):
        raise InputError(
            f"{folder} holds zoo {old.fingerprint}, which differs from this one ({record.fingerprint}) in "
            f"{'; '.join(fields)}: choose another --out or undo the change"
        )
    sweep(folder)


def sweep(folder: Location):
    """Take away what processes that were killed left half-written in a zoo."""
    for part in (folder, folder / "shards", folder / "catalog"):
        sweep_temporaries(part)


def pending_shards(folder: Location) -> dict[str, str]:
    """The shards still to fit, by name, each with what is the matter with it."""
    return shard_problems(Zoo.open(folder))


def fit_shard(
    config: AnyZooConfig,
    folder: Location,
    signals: Signals,
    shard: ShardPlan,
    device: str = "cpu",
    advance: Advance = untold,
) -> ShardSummary:
    """Fit the members of a shard on a device as torch names them, and commit it.

    A function of config, signals and shard alone: fitting a shard again gives the same bytes.
    """
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    kind = kind_of(config)
    members = kind.fit_members(config, signals, shard, device, advance)
    commit_shard(
        folder,
        shard.name,
        members,
        kind.weight_space(config, signals),
        config.block_size,
        kind.SCHEMA,
    )
    quality = pc.sum(members.columns[kind.QUALITY]).as_py()
    return ShardSummary(shard.name, len(members.ok), int((~members.ok).sum()), quality or 0.0)


def commit_shard(
    folder: Location,
    name: str,
    members: Members,
    space: WeightSpace,
    block_size: int,
    schema: pa.Schema = catalog.SCHEMA,
):
    """Commit the members of a shard: its bytes are a function of the arguments alone."""
    ok, place = members.ok, np.cumsum(members.ok) - 1
    columns = members.columns | {
        "key": members.keys,
        "split": [name.rsplit("-", 1)[0]] * len(ok),
        "shard": [name] * len(ok),
        "block": pa.array((place // block_size).astype(np.int32), mask=~ok),
        "row": pa.array((place % block_size).astype(np.int32), mask=~ok),
        "status": np.where(ok, "ok", "failed").tolist(),
    }
    commit_blocks(folder, name, pack_blocks(space, members, block_size), columns, schema)


def commit_blocks(
    folder: Location,
    name: str,
    blocks: Sequence[tuple[Block, list[str]]],
    columns: Mapping[str, Any],
    schema: pa.Schema,
):
    """Write the tar first, then its catalog part, which has all columns of `schema`."""
    data = encode_shard(name, blocks)
    write_atomic(catalog.shard_path(folder, name), data)
    catalog.write_part(folder, name, columns, catalog.ShardMark(sha256(data), len(data)), schema)


def unseal_zoo(folder: Location):
    """A zoo that is being fitted is not finished, even where it was before a shard was lost; new parts are of this schema."""
    (folder / SEAL).unlink(missing_ok=True)
    record = read_record(folder)
    if record.schema_version < SCHEMA_VERSION:
        write_record(folder, record.model_copy(update={"schema_version": SCHEMA_VERSION}))


def seal_zoo(folder: Location) -> Zoo:
    """Write statistics.json, the last file of a zoo. Raises ArchiveError where a shard is not committed."""
    sweep(folder)
    write_json(folder / SEAL, compute_seal(Zoo.open(folder)))
    return Zoo.open(folder)
