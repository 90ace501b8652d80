"""Checks that a zoo holds what its catalog says."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive import catalog
from pipeline.archive.consolidated import ROWS, SHARDS, read_marks, read_rows
from pipeline.archive.extents import read_block
from pipeline.archive.files import list_files, sha256
from pipeline.archive.growing import read_growing, sealed_zoo_json
from pipeline.archive.parts import Catalog
from pipeline.archive.record import FILE, ShardRecord, read_zoo_json
from pipeline.archive.statistics import compute_statistics
from pipeline.archive.summary import counts
from pipeline.archive.zoo import READ_AHEAD, Zoo, column
from pipeline.errors import ArchiveError


def verify_zoo(zoo: Zoo) -> list[str]:
    """All problems, one sentence each; empty for an intact zoo."""
    try:
        problems = list(shard_problems(zoo).values())
    except ArchiveError as error:
        return [str(error)]
    problems += unexpected_files(zoo)
    return problems or consolidated_problems(zoo) or plan_problems(zoo) or seal_problems(zoo)


def shard_problems(zoo: Zoo) -> dict[str, str]:
    """Problems of missing or damaged shards, by name. Raises ArchiveError for a damaged seal."""
    if zoo.is_sealed:
        zoo.seal  # noqa: B018 raises ArchiveError
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        problems = pool.map(lambda shard: shard_problem(zoo, shard), zoo.record.shards)
        return {
            shard.name: problem
            for shard, problem in zip(zoo.record.shards, problems, strict=True)
            if problem
        }


def shard_problem(zoo: Zoo, shard: ShardRecord) -> str | None:
    try:
        part = zoo.read_part(shard)
        zoo.read_shard(shard.name, part)
        for block in part.mark.blocks or ():
            read_block(zoo, shard.name, part.mark, block, verify=True)
    except ArchiveError as error:
        return str(error)
    return None


def unexpected_files(zoo: Zoo) -> list[str]:
    """Problems of shards and catalog parts that are in no plan, of the zoo or of its growth."""
    growing = read_growing(zoo.folder)
    expected = {
        path(zoo.folder, shard.name)
        for shard in (*zoo.record.shards, *(growing.zoo.shards if growing else ()))
        for path in (catalog.shard_path, catalog.part_path)
    }
    found = {
        file
        for part in ("shards", "catalog")
        for file in list_files(zoo.folder / part)
        if not file.name.startswith(".")
    }
    return [
        f"{path} is not in the plan of this zoo: move it out of the folder"
        for path in sorted(found - expected)
    ]


def consolidated_problems(zoo: Zoo) -> list[str]:
    """Problems of consolidated files that differ from the catalog parts; a zoo may have none."""
    if not zoo.is_sealed:
        return []
    parts = Catalog(zoo.folder, zoo.record.schema, zoo.shards, checksums=None)
    problems = []
    for file, read, expected in (
        (ROWS, read_rows, parts.rows),
        (SHARDS, read_marks, parts.marks),
    ):
        try:
            found = read(zoo.folder, zoo.seal.catalog)
        except ArchiveError as error:
            problems.append(str(error))
            continue
        same = found.equals(expected) if isinstance(found, pa.Table) else found == expected
        if not same and (zoo.folder / file).is_file():
            problems.append(f"{zoo.folder / file} is not what the catalog parts say: delete it")
    return problems


def plan_problems(zoo: Zoo) -> list[str]:
    """Problems of members: counts per class and split, repeated keys, a source in two splits."""
    table, names = zoo.catalog, zoo.record.signals.class_names
    problems = []
    for split, planned in (zoo.record.classes or {}).items():
        found = counts(table.filter(pc.field("split") == split), "label")
        problems += [
            f"the {split} split must have {number} members of class {name}, found "
            f"{found.get(label, 0)}"
            for label, (name, number) in enumerate(zip(names, planned, strict=True))
            if found.get(label, 0) != number
        ]
    sides = table.group_by("source_index").aggregate([("split", "count_distinct")])
    for source in column(sides.filter(pc.field("split_count_distinct") > 1), "source_index")[:1]:
        problems.append(
            f"all members of source {source} must be in one split, found them in several"
        )
    if num_keys := len(table) - pc.count_distinct(table["key"]).as_py():
        problems.append(
            f"every member must have a key of its own, found {num_keys} with the key of another"
        )
    return [f"{problem}: build the zoo anew" for problem in problems]


def seal_problems(zoo: Zoo) -> list[str]:
    """Problems of statistics.json: wrong statistics, or another zoo.json."""
    expected = json.loads(json.dumps(compute_statistics(zoo)["tensors"]))
    try:
        found = zoo.statistics
    except ArchiveError as error:
        return [str(error)]
    wrong = [
        name
        for name, moments in expected.items()
        for moment, value in moments.items()
        if not math.isclose(
            found.get(name, {}).get(moment, math.nan), value, rel_tol=1e-9, abs_tol=1e-12
        )
    ]
    data = sealed_zoo_json(zoo.folder, read_zoo_json(zoo.folder), zoo.seal_bytes)
    changed = sha256(data) != zoo.seal.zoo
    problems = (
        [f"{FILE} is not as it was when the zoo was finished: put back a copy"] if changed else []
    )
    return problems + [
        f"statistics.json is wrong for {name}: delete it and run `dwszoo zoo build` (or `import`, "
        "`merge`)"
        for name in dict.fromkeys(wrong)
    ]
