"""Speed of loading batches for training: `dwszoo bench feed`.

100,000 members of 1,185 parameters (474 MB) in the page cache, one epoch in batches of 128, shared
by 1, 2 and 4 processes: staged in memory, streamed from disk, streamed from an S3 server on this
machine (in Python), and with the loader's earlier scheme, in which each process reads all shards,
verifies their checksums and keeps its part. Prints models per second and per CPU second of one
process in an epoch after the first, and the bytes read by all processes in the first epoch and in
that one. Every process checks that it got as many members as its part of the epoch. Blocks at
borders of lanes are read twice: 64 of this zoo's 391, and no more in a larger one.
"""

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from pipeline.archive.zoo import Zoo
from pipeline.training import sources
from pipeline.training.loader import Feed
from tests.bench.read import SPACE, make_zoo
from tests.s3 import CLIENT, Handler, s3_server

NUM_MEMBERS, BATCH, WINDOW = 125_000, 128, 65_536
PROCESSES = (1, 2, 4)


def before(zoo: Zoo, epoch: int, rank: int, world_size: int) -> Iterator[int]:
    """Batch sizes of the loader's earlier scheme."""
    rng, share = np.random.default_rng([0, epoch]), BATCH // world_size
    names = [shard.name for shard in zoo.shards_of("train")]
    waiting: list[dict[str, torch.Tensor]] = []
    for place, number in enumerate(rng.permutation(len(names))):
        waiting += zoo._read_shard(names[number])
        held = sum(len(next(iter(block.values()))) for block in waiting)
        if held < WINDOW and place < len(names) - 1:
            continue
        whole = {name: torch.cat([block[name] for block in waiting]) for name in waiting[0]}
        order = torch.from_numpy(rng.permutation(held))
        full = held // BATCH * BATCH
        for start in range(rank * share, full, BATCH):
            part = {name: values[order[start : start + share]] for name, values in whole.items()}
            yield len(next(iter(part.values())))
        waiting = [{name: values[order[full:]] for name, values in whole.items()}]


@dataclass(frozen=True)
class Measured:
    num_members: int
    seconds: float
    cpu_seconds: float
    num_bytes: tuple[int, int]
    """Bytes read from files in the first epoch, and in the timed one."""


def read_from_files() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar"):
            return int(line.split()[1])
    raise OSError("/proc/self/io must say how much was read")


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def work(how: str, place: str, rank: int, world_size: int, barrier, results):
    """Run one of the processes that share an epoch."""
    torch.set_num_threads(1)
    if how != "staged":
        sources.STAGED_SHARE = 0
    zoo = Zoo.open(place)
    feed = Feed(zoo, "train", ())

    def sizes(epoch: int) -> Iterator[int]:
        if how == "before":
            return before(zoo, epoch, rank, world_size)
        return (len(batch) for batch in feed.epoch(epoch, BATCH, rank, world_size))

    barrier.wait()
    start_bytes = read_from_files()
    sum(sizes(1))
    barrier.wait()
    first_bytes, start, cpu = read_from_files(), time.perf_counter(), cpu_seconds()
    count = sum(sizes(2))
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    num_bytes = (first_bytes - start_bytes, read_from_files() - first_bytes)
    expected = feed.num_batches(BATCH) * BATCH // world_size
    assert count == expected, f"rank {rank} must have {expected} members, found {count}"
    results.put(Measured(count, seconds, cpu, num_bytes))


def measure(how: str, place: str, world_size: int) -> list[Measured]:
    context = get_context("spawn")
    barrier, results = context.Barrier(world_size), context.Queue()
    target = import_module("tests.bench.feed").work  # not of __main__, which processes do not have
    processes = [
        context.Process(target=target, args=(how, place, rank, world_size, barrier, results))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    return found


def main():
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = torch.randn(
        NUM_MEMBERS, SPACE.num_parameters, generator=torch.Generator().manual_seed(0)
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "zoo"
        make_zoo(folder, rows)
        del rows
        served = [0]
        uri = serve(stack, folder, served)
        print(
            f"{'from':8s}{'processes':>10s}{'models/s each':>15s}{'models/CPU s':>14s}"
            f"{'MB first':>10s}{'MB then':>9s}"
        )
        for world_size in PROCESSES:
            for how in ("before", "staged", "disk", "S3"):
                served[0] = 0
                found = measure(how, uri if how == "S3" else str(folder), world_size)
                rate = np.mean([one.num_members / one.seconds for one in found])
                per_cpu = np.mean([one.num_members / one.cpu_seconds for one in found])
                first, then = np.sum([one.num_bytes for one in found], 0) / 1e6
                if how == "S3":
                    first = then = served[0] / 2e6
                print(
                    f"{how:8s}{world_size:10d}{rate:15,.0f}{per_cpu:14,.0f}"
                    f"{first:10,.0f}{then:9,.0f}",
                    flush=True,
                )


def serve(stack: ExitStack, folder: Path, served: list[int]) -> str:
    """The URI of a copy of the zoo on an S3 server, which counts the bytes that it sends."""
    os.environ |= CLIENT
    answer = Handler.answer

    def counting(self, status: int, body: bytes = b"", **headers: str):
        served[0] += len(body) if self.command != "HEAD" else 0
        answer(self, status, body, **headers)

    Handler.answer = counting
    query, objects = stack.enter_context(s3_server())
    for path in folder.rglob("*"):
        if path.is_file():
            objects[f"/bucket/zoo/{path.relative_to(folder)}"] = path.read_bytes()
    return f"s3://bucket/zoo?{query}"


if __name__ == "__main__":
    main()
