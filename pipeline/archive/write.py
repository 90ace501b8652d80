"""Writing a zoo: claim its folder, commit shards, seal.

Every step can be repeated; what is committed stays.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dwsnet.weight_space import WeightSpace
from pipeline.archive import catalog
from pipeline.archive.consolidated import remove_consolidated, write_consolidated
from pipeline.archive.files import sweep_temporaries, write_atomic, write_json
from pipeline.archive.growing import finish_growing, read_growing, require_not_growing
from pipeline.archive.record import (
    FILE,
    SCHEMA_VERSION,
    ZooRecord,
    read_record,
    read_zoo_json,
    write_record,
)
from pipeline.archive.seal import SEAL
from pipeline.archive.shard import Block, Members, encode_shard, mark_of, pack_blocks
from pipeline.archive.statistics import compute_seal
from pipeline.archive.verify import shard_problems
from pipeline.archive.zoo import Zoo
from pipeline.config import differences
from pipeline.errors import InputError
from pipeline.location import Location


def claim_zoo(folder: Location, record: ZooRecord):
    """Create the folder of a zoo with its zoo.json, and remove half-written files.

    Raises InputError like `require_same_zoo`.
    """
    for part in (folder / "shards", folder / "catalog"):
        part.mkdir(parents=True, exist_ok=True)
    if not (folder / FILE).exists():
        write_record(folder, record)
    require_same_zoo(folder, record)  # without locks, another process may have written zoo.json
    sweep(folder)


def require_same_zoo(folder: Location, record: ZooRecord):
    """Raises InputError if `folder` holds another zoo, saying which fields differ, or a zoo that
    grows or has grown since.
    """
    old = read_record(folder)
    require_not_growing(folder)
    if old.grown and old.grown[0].fingerprint == record.fingerprint:
        raise InputError(
            f"{folder} holds a zoo that has grown since it was {record.fingerprint}: "
            f"`dwszoo zoo build {folder / FILE} --out {folder}` repairs it, "
            f"`dwszoo zoo grow {folder}` adds to it"
        )
    if fields := differences(old.zoo_identity(), record.zoo_identity()):
        raise InputError(
            f"{folder} holds zoo {old.fingerprint}, which differs from this one "
            f"({record.fingerprint}) in {'; '.join(fields)}: choose another --out or undo the "
            "change"
        )


def sweep(folder: Location):
    """Remove half-written files that killed processes left in a zoo."""
    for part in (folder, folder / "shards", folder / "catalog"):
        sweep_temporaries(part)


def pending_shards(folder: Location) -> dict[str, str]:
    """The shards still to fit, by name, with the reason for each."""
    return shard_problems(planned_zoo(folder))


def planned_zoo(folder: Location) -> Zoo:
    """The zoo with all planned shards; for one that grows, those of the larger zoo."""
    growing = read_growing(folder)
    return Zoo.under_construction(folder, growing.zoo) if growing else Zoo.open(folder)


def commit_shard(
    folder: Location,
    name: str,
    members: Members,
    space: WeightSpace,
    block_size: int,
    schema: pa.Schema,
):
    """Commit the members of a shard; its bytes depend on the arguments alone."""
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
    """Write the tar, then its catalog part, which has all columns of `schema`."""
    data = encode_shard(name, blocks)
    write_atomic(catalog.shard_path(folder, name), data)
    catalog.write_part(folder, name, columns, mark_of(data, blocks), schema)


def unseal_zoo(folder: Location, planned: ZooRecord):
    """Mark a zoo as unfinished, and as of this schema version, before shards are fitted (again).

    A zoo that grows stays as it is.
    """
    if read_growing(folder):
        return
    (folder / SEAL).unlink(missing_ok=True)
    remove_consolidated(folder)
    record = read_record(folder)
    if record.schema_version < SCHEMA_VERSION:
        newer = {"schema_version": SCHEMA_VERSION, "facts": planned.facts}
        write_record(folder, record.model_copy(update=newer))


def seal_zoo(folder: Location) -> Zoo:
    """Write the consolidated catalog, then statistics.json, the last file of a zoo.

    The new seal also completes growing. Raises ArchiveError if a shard is not committed.
    """
    sweep(folder)
    growing, zoo = read_growing(folder), planned_zoo(folder)
    seal = compute_seal(zoo, growing.zoo.as_json() if growing else read_zoo_json(folder))
    write_consolidated(folder, zoo.parts, zoo.catalog)
    write_json(folder / SEAL, seal)
    if growing:
        finish_growing(folder, growing)
    return Zoo.open(folder)
