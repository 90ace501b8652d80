"""Building a zoo: plan, fit shard by shard, seal. Every step can be repeated; what is committed stays."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dwsnet.weight_space import WeightSpace
from pipeline.archive import catalog
from pipeline.archive.files import sha256, sweep_temporaries, write_atomic, write_json
from pipeline.archive.plan import ShardPlan, plan_shards
from pipeline.archive.record import FILE, ZooRecord, make_record, read_record, write_record
from pipeline.archive.shard import Block, encode_shard
from pipeline.archive.statistics import compute_seal
from pipeline.archive.verify import shard_problems
from pipeline.archive.zoo import SEAL, Zoo
from pipeline.config import ZooConfig, differences
from pipeline.errors import InputError
from pipeline.fit.adam import fit
from pipeline.fit.seeds import member_keys
from pipeline.fit.siren import inr_space, unpack
from pipeline.signals import Signals, coordinates, load_signals


@dataclass(frozen=True)
class ZooPlan:
    record: ZooRecord
    signals: Signals
    shards: list[ShardPlan]


@dataclass(frozen=True)
class Members:
    """The members of a shard, in order, those without weights too."""

    keys: list[str]
    rows: torch.Tensor
    """`(members, parameters)` float32, in the order of the weight space."""
    ok: np.ndarray
    """`(members,)` bool: who has weights."""
    columns: dict[str, Any]
    """Catalog columns beside key, split, shard, block, row and status."""


@dataclass(frozen=True)
class ShardSummary:
    name: str
    num_members: int
    num_failed: int
    psnr_sum: float
    """Over the members that did not fail, in dB."""


def plan_zoo(config: ZooConfig, folder: Path) -> ZooPlan:
    """Load the signals, fix every member, write zoo.json.

    Raises InputError where `folder` holds a zoo of another configuration, and says which fields differ.
    """
    signals = load_signals(config.signals)
    shards = plan_shards(config, signals)
    record = make_record(config, signals, shards)
    claim_zoo(folder, record)
    return ZooPlan(record, signals, shards)


def claim_zoo(folder: Path, record: ZooRecord):
    """Make `folder` the place of this zoo: zoo.json, and nothing half-written.

    Raises InputError where it holds a zoo of another configuration, and says which fields differ.
    """
    if (folder / FILE).exists():
        old = read_record(folder)
        if fields := differences(old.zoo_identity(), record.zoo_identity()):
            raise InputError(
                f"{folder} holds zoo {old.fingerprint}, which differs from this one ({record.fingerprint}) in "
                f"{'; '.join(fields)}: choose another --out or undo the change"
            )
    for part in (folder / "shards", folder / "catalog"):
        part.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(part)
    if not (folder / FILE).exists():
        write_record(folder, record)


def pending_shards(folder: Path) -> dict[str, str]:
    """The shards still to fit, by name, each with what is the matter with it."""
    return shard_problems(Zoo.open(folder))


def fit_shard(config: ZooConfig, folder: Path, signals: Signals, shard: ShardPlan) -> ShardSummary:
    """Fit the members of a shard and commit it.

    A function of config, signals and shard alone: fitting a shard again gives the same bytes.
    """
    torch.set_num_threads(1)
    space = inr_space(config.inr, len(signals.grid), signals.num_channels)
    values = torch.from_numpy(signals.values[shard.source_index]).flatten(1, -2).transpose(1, 2).contiguous()
    sources = np.zeros_like(shard.source_index) if config.inr.shared_init else shard.source_index
    seeds = member_keys(config.seed, sources, shard.view)
    fitted = fit(space, config.inr, config.fit, seeds, torch.from_numpy(coordinates(signals.grid)), values)
    reason = np.where(values.isfinite().all((1, 2)).numpy(), fitted.stop_reason, "unreadable")
    keys = [f"{source:08d}-{view:04d}" for source, view in zip(shard.source_index, shard.view, strict=True)]
    columns = {
        "source_index": shard.source_index,
        "view": shard.view.astype(np.int32),
        "label": signals.labels[shard.source_index],
        "seed": seeds,
        "stop_reason": reason.tolist(),
        "steps": fitted.steps,
        "psnr": pa.array(fitted.psnr, mask=~fitted.ok),
    }
    commit_shard(folder, shard.name, Members(keys, fitted.rows, fitted.ok, columns), space, config.block_size)
    psnr = fitted.psnr[fitted.ok].astype(np.float64)
    return ShardSummary(shard.name, len(keys), int((~fitted.ok).sum()), float(psnr.sum()))


def commit_shard(
    folder: Path, name: str, members: Members, space: WeightSpace, block_size: int, schema: pa.Schema = catalog.SCHEMA
):
    """Write the tar first, then its catalog part: their bytes are a function of the arguments alone."""
    data = encode_shard(name, pack_blocks(space, members, block_size))
    write_atomic(catalog.shard_path(folder, name), data)
    ok, place = members.ok, np.cumsum(members.ok) - 1
    columns = members.columns | {
        "key": members.keys,
        "split": [name.rsplit("-", 1)[0]] * len(ok),
        "shard": [name] * len(ok),
        "block": pa.array((place // block_size).astype(np.int32), mask=~ok),
        "row": pa.array((place % block_size).astype(np.int32), mask=~ok),
        "status": np.where(ok, "ok", "failed").tolist(),
    }
    catalog.write_part(folder, name, columns, catalog.ShardMark(sha256(data), len(data)), schema)


def pack_blocks(space: WeightSpace, members: Members, block_size: int) -> list[tuple[Block, list[str]]]:
    """The members that have weights, in order, as blocks with their keys."""
    blocks = []
    kept = np.flatnonzero(members.ok)
    for start in range(0, len(kept), block_size):
        index = kept[start : start + block_size]
        tensors = unpack(space, members.rows[index])
        block = {spec.name: tensor for spec, tensor in zip(space.tensors, tensors, strict=True)}
        blocks.append((block, [members.keys[i] for i in index]))
    return blocks


def unseal_zoo(folder: Path):
    """A zoo that is being fitted is not finished, even where it was before a shard was lost."""
    (folder / SEAL).unlink(missing_ok=True)


def seal_zoo(folder: Path) -> Zoo:
    """Write statistics.json, the last file of a zoo. Raises ArchiveError where a shard is not committed."""
    write_json(folder / SEAL, compute_seal(Zoo.open(folder)))
    return Zoo.open(folder)
