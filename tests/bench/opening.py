"""Speed of opening a zoo of many shards: `dwszoo bench opening [SHARDS]`.

A synthetic sealed zoo of 10,000 shards with 1,000 rows each; all shards have the same tensors.
Prints the seconds from `Zoo.open` to the labels and places of all blocks, to the first batch of a
rank that streams and learns labels, and to all rows of the catalog, each in its own process, with
CPU seconds and peak memory beyond that of the imports; the number of requests that the last takes
from an S3 server on this machine; and the same for 500 shards with only their catalog parts.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from dwsnet.weight_space import WeightSpace
from pipeline.archive.catalog import CatalogPart, part_path, shard_path, write_part
from pipeline.archive.consolidated import ROWS, SHARDS, write_consolidated
from pipeline.archive.files import sha256, write_json
from pipeline.archive.record import FILE, ShardRecord
from pipeline.archive.schemas import INRS
from pipeline.archive.seal import SEAL
from pipeline.archive.shard import Members, encode_shard, mark_of, pack_blocks
from pipeline.archive.write import claim_zoo
from pipeline.config import SignalsConfig, SirenConfig, ZooConfig
from pipeline.signals import Signals
from pipeline.zoos.build import make_record
from pipeline.zoos.inrs import Inrs
from tests.s3 import CLIENT, Handler, s3_server

NUM_SHARDS, NUM_ROWS, FEW = 10_000, 1_000, 500
SPACE = WeightSpace.mlp((2, 4, 1))
OPEN = "from pipeline.archive.zoo import Zoo; zoo = Zoo.open(sys.argv[1]); "
LABELS = OPEN + "marks, rows = zoo.marks, len(zoo.columns(['label']))"
CATALOG = OPEN + "rows = len(zoo.catalog)"
RANK = OPEN + (
    "from pipeline.training.loader import Feed; feed = Feed(zoo, 'train', ('label',)); "
    "rows = feed.num_members; batch = next(feed.epoch(1, 128))"
)
MEASURE = """
import sys, time
import torch, pyarrow.parquet, pipeline.archive.zoo
import pipeline.training.loader, pipeline.training.sources
pipeline.training.sources.STAGED_SHARE = 0

def most_memory():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))

before = most_memory()
start, cpu = time.perf_counter(), time.process_time()
{code}
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
print(seconds, cpu, most_memory() - before, rows)
"""


def rows_of(names: list[str]) -> pa.Table:
    """The catalog of shards."""
    size, rng = len(names) * NUM_ROWS, np.random.default_rng(0)
    source, place = np.arange(size), np.tile(np.arange(NUM_ROWS, dtype=np.int32), len(names))
    keys = pc.utf8_lpad(pa.array(source).cast(pa.string()), 8, "0")
    one_of = pa.array(np.repeat(np.arange(len(names)), NUM_ROWS))
    columns = {
        "key": pc.binary_join_element_wise(keys, "0000", "-"),
        "split": pa.repeat("train", size),
        "shard": pa.array(names).take(one_of),
        "block": place // 256,
        "row": place % 256,
        "source_index": source,
        "source_name": pa.nulls(size, pa.string()),
        "view": np.zeros(size, np.int32),
        "label": source % 10,
        "seed": rng.integers(0, 2**63, size, np.uint64),
        "status": pa.repeat("ok", size),
        "stop_reason": pa.repeat("max_steps", size),
        "failure": pa.nulls(size, pa.string()),
        "steps": np.full(size, 300),
        "psnr": rng.normal(30, 2, size).astype(np.float32),
        "psnr_off_grid": rng.normal(25, 2, size).astype(np.float32),
    }
    return pa.table(columns, schema=INRS)


def make_zoo(folder: Path, num_shards: int, with_parts: bool):
    """A finished zoo with catalog parts or, otherwise, sealed; its shards are links to one file."""
    config = ZooConfig(signals=SignalsConfig(), inr=SirenConfig(hidden=(4,)), shard_size=NUM_ROWS)
    labels, names = np.arange(100) % 10, tuple(map(str, range(10)))
    kind = Inrs(config, Signals("none", np.zeros((100, 2, 2, 1), np.float32), labels, names))
    names = [f"train-{number:06d}" for number in range(num_shards)]
    shards = tuple(ShardRecord(name=name, split="train", num_members=NUM_ROWS) for name in names)
    record = make_record(kind, kind.plan_shards())
    claim_zoo(folder, record.model_copy(update={"shards": shards, "classes": None}))
    tensors, ok = torch.randn(NUM_ROWS, SPACE.num_parameters), np.ones(NUM_ROWS, bool)
    keys = [f"{i:08d}" for i in range(NUM_ROWS)]
    blocks = pack_blocks(SPACE, Members(keys, tensors, ok, {}), 256)
    data = encode_shard(names[0], blocks)
    shard_path(folder, names[0]).write_bytes(data)
    for name in names[1:]:
        os.link(shard_path(folder, names[0]), shard_path(folder, name))
    mark, rows, parts = mark_of(data, blocks), rows_of(names), {}
    for number, name in enumerate(names):
        own = rows.slice(number * NUM_ROWS, NUM_ROWS)
        checksum = sha256(name.encode())
        if with_parts:
            write_part(folder, name, dict(zip(INRS.names, own.columns, strict=True)), mark, INRS)
            checksum = sha256(part_path(folder, name).read_bytes())
        parts[name] = CatalogPart(own, mark, checksum)
    if not with_parts:
        write_consolidated(folder, parts, rows)
    seal = {
        "split": "train",
        "num_members": len(rows),
        "tensors": {spec.name: {"mean": 0.0, "std": 1.0} for spec in SPACE.tensors},
        "zoo": sha256((folder / FILE).read_bytes()),
        "catalog": {name: part.sha256 for name, part in parts.items()},
    }
    write_json(folder / SEAL, seal)


def measured(code: str, place: str) -> tuple[float, float, float, int]:
    """Seconds, CPU seconds, bytes of memory and rows, measured in its own process."""
    command = [sys.executable, "-c", MEASURE.format(code=code), place]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(out[0]), float(out[1]), float(out[2]), int(out[3])


def requests(folder: Path) -> tuple[list[str], float]:
    """The requests to an object store, and the seconds that they take."""
    os.environ |= CLIENT
    seen: list[str] = []
    parse = Handler.parse_request

    def counted(self) -> bool:
        parsed = parse(self)
        seen.append(f"{self.command} {self.path}")
        return parsed

    Handler.parse_request = counted
    with s3_server() as (query, objects):
        for file in (FILE, SEAL, ROWS, SHARDS):
            objects[f"/bucket/zoo/{file}"] = (folder / file).read_bytes()
        seconds, *_ = measured(CATALOG + "; marks = zoo.marks", f"s3://bucket/zoo?{query}")
    return seen, seconds


def main():
    num_shards = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_SHARDS
    for title, size in (("consolidated", num_shards), ("parts alone", FEW)):
        with tempfile.TemporaryDirectory() as scratch:
            folder, start = Path(scratch) / "zoo", time.perf_counter()
            make_zoo(folder, size, with_parts=title == "parts alone")
            made = time.perf_counter() - start
            print(f"{title}: {size:,} shards, {size * NUM_ROWS:,} rows, made in {made:.0f} s")
            if title == "consolidated":
                files = {
                    file: (folder / file).stat().st_size for file in (FILE, SEAL, ROWS, SHARDS)
                }
                print(", ".join(f"{file} {size / 1e6:.1f} MB" for file, size in files.items()))
                seen, seconds = requests(folder)
                print(f"  all rows, by S3{seconds:7.2f} s  {len(seen):6d} requests", flush=True)
            for what, code in (
                ("labels", LABELS),
                ("a rank's batch", RANK),
                ("all rows", CATALOG),
            ):
                seconds, cpu, num_bytes, rows = measured(code, str(folder))
                assert rows == size * NUM_ROWS
                print(
                    f"  {what:15s}{seconds:7.2f} s  {cpu:6.2f} CPU s  {num_bytes / 1e6:7,.0f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
