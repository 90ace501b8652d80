"""Speed of reading a zoo: `python -m tests.bench.read`.

Random members of 2-32-32-1 (1,185 parameters), on disk and in the page cache, in one process:
40,000 in blocks of a zoo, read as in training with checksums verified; 10,000 as plain WebDataset
with one member per sample; 2,000 in one file each, read by `torch.load`. Each reads every tensor of
every member; sums of all parameters must agree.

The lower bound is sha256: 33 ms for the 47 MB on one core (1.44 GB/s) and half of it on two, or
300,000 and 600,000 models/s. In addition it takes 4 ms to copy the bytes into warm memory, 20 ms
into fresh pages of 4 KiB, 8 ms into huge pages. Models/s on two cores of a 2.75 GHz Sapphire
Rapids, torch 2.13:

| how shards are read                                                             | models/s |
|---------------------------------------------------------------------------------|----------|
| bytes, tarfile, safetensors.torch.load; hashed beside the decoding              |  176,000 |
| read into huge pages, hashed, then tensors as views; two shards at once         |  283,000 |
| that in 4 KiB pages                                                             |  264,000 |
| that with the file mapped (MAP_PRIVATE) instead of read                         |  274,000 |
| that with tarfile in the place of our reading of the headers                    |  229,000 |
| that on one core                                                                |  177,000 |

These are for 10,000 members. Since then each shard's keys are also compared with its catalog rows,
which takes 3 of 40 ms (244,000 models/s); Parquet takes 5 ms, and the two small splits, with one
shard each, use one core. With 40,000 members it is 241,000 to 274,000 models/s.
"""

import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import webdataset
from torch import Tensor

from dwsnet import WeightSpace
from dwsnet.state import unpack
from pipeline.archive.schemas import INRS
from pipeline.archive.shard import Members
from pipeline.archive.write import claim_zoo, commit_shard, seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import SignalsConfig, SirenConfig, ZooConfig
from pipeline.signals import Signals
from pipeline.zoos.build import make_record
from pipeline.zoos.inrs import Inrs

NUM_MEMBERS, NUM_SAMPLES, NUM_FILES = 40_000, 10_000, 2_000
SECONDS, REPEATS = 2.0, 3
"""Seconds and minimum number of runs for each; the fastest run counts."""
SPACE = WeightSpace.mlp((2, 32, 32, 1))


def make_zoo(folder: Path, rows: Tensor) -> Zoo:
    """A finished zoo with these parameters."""
    config = ZooConfig(
        signals=SignalsConfig(validation_fraction=0.1, test_fraction=0.1),
        inr=SirenConfig(hidden=(32, 32)),
    )
    signals = Signals(
        "none", np.zeros((len(rows), 2, 2, 1), np.float32), np.zeros(len(rows), np.int64), ("one",)
    )
    kind = Inrs(config, signals)
    shards = kind.plan_shards()
    claim_zoo(folder, make_record(kind, shards))
    for shard in shards:
        count = len(shard.source_index)
        columns = {
            "source_index": shard.source_index,
            "source_name": [None] * count,
            "failure": [None] * count,
            "view": shard.view.astype(np.int32),
            "label": signals.labels[shard.source_index],
            "seed": shard.source_index.astype(np.uint64),
            "stop_reason": ["max_steps"] * count,
            "steps": np.ones(count, np.int64),
            "psnr": np.full(count, 30, np.float32),
            "psnr_off_grid": np.full(count, 25, np.float32),
        }
        keys = [f"{source:08d}" for source in shard.source_index]
        members = Members(keys, rows[shard.source_index], np.ones(count, bool), columns)
        commit_shard(folder, shard.name, members, SPACE, config.block_size, INRS)
    return seal_zoo(folder)


def blocks(folder: Path) -> Iterator[dict[str, Tensor]]:
    zoo = Zoo.open(folder / "zoo")
    for split in ("train", "validation", "test"):
        for block, _ in zoo.blocks(split):
            yield block


def one_a_sample(folder: Path) -> Iterator[dict[str, Tensor]]:
    for sample in webdataset.WebDataset(str(folder / "members.tar"), shardshuffle=False):
        yield {
            name: tensor[None]
            for name, tensor in safetensors.torch.load(sample["safetensors"]).items()
        }


def one_a_file(folder: Path) -> Iterator[dict[str, Tensor]]:
    for path in sorted((folder / "files").iterdir()):
        yield {name: tensor[None] for name, tensor in torch.load(path, weights_only=True).items()}


def write_all(folder: Path, rows: Tensor):
    make_zoo(folder / "zoo", rows)
    states = [
        {name: tensor[0].clone() for name, tensor in unpack(SPACE, row[None]).items()}
        for row in rows[:NUM_SAMPLES]
    ]
    with webdataset.TarWriter(str(folder / "members.tar"), encoder=False) as writer:
        for i, state in enumerate(states):
            content = {"safetensors": safetensors.torch.save(state), "json": json.dumps(i).encode()}
            writer.write({"__key__": f"{i:08d}", **content})
    (folder / "files").mkdir()
    for i, state in enumerate(states[:NUM_FILES]):
        buffer = io.BytesIO()
        torch.save(state, buffer)
        (folder / "files" / f"{i:08d}.pth").write_bytes(buffer.getvalue())


def measure(
    read: Callable[[Path], Iterator[dict[str, Tensor]]], folder: Path
) -> tuple[float, int, float]:
    """Models per second in the fastest run, number of models, sum of all parameters."""
    times: list[float] = []
    while len(times) < REPEATS or sum(times) < SECONDS:
        found = []  # free the memory of the previous run
        start = time.perf_counter()
        found = list(read(folder))
        times.append(time.perf_counter() - start)
    count = sum(len(next(iter(block.values()))) for block in found)
    total = sum(tensor.double().sum().item() for block in found for tensor in block.values())
    return count / min(times), count, total


def main():
    rows = torch.randn(
        NUM_MEMBERS, SPACE.num_parameters, generator=torch.Generator().manual_seed(0)
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_all(folder, rows)
        reference = None
        for read in (one_a_file, one_a_sample, blocks):
            rate, count, total = measure(read, folder)
            reference = reference or rate
            assert abs(total - rows[:count].double().sum().item()) < 1e-3, (
                f"{read.__name__} read other parameters"
            )
            name = read.__name__.replace("_", " ")
            print(
                f"{name:14s} {rate:9,.0f} models/s  {rate / reference:6.1f}x of a file a member",
                flush=True,
            )


if __name__ == "__main__":
    main()
