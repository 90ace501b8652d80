"""How training scales with processes: `dwszoo bench scaling`.

Measured on this machine: 1, 2 and 4 processes train the classifier of the MNIST corpus (5 layers of
32 channels) in batches of 128 random INRs. Prints the milliseconds of a step, of its wait for data,
of the all-reduce of the gradient (gloo), and of copying and writing a checkpoint.

Modelled: an epoch on 8 to 1,024 GPUs. The parts of a step are measured here, except the models/s of
a GPU, which `python -m tests.gpu.check` measures, and the rates of hardware, which are assumed and
printed. The terms of a step: compute, the all-reduce of the gradient after it (not overlapped),
reading (overlapped, so it only counts if it is slower), and its share of checkpoints. Besides
these, the time of each rank to open the zoo, once per run, and to plan an epoch, which it does
while the previous epoch is scored; and the memory of a node. The first bottleneck is the part that
takes the largest share of its budget: compute for the all-reduce, both for reading, the epoch for
planning.
"""

import json
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from flows.recipes import dws_mnist
from pipeline.archive.zoo import Zoo
from pipeline.training import checkpoint, sources
from pipeline.training.loader import HELD, Feed
from pipeline.training.order import Order
from tests.bench.read import SPACE, make_zoo
from tests.pipeline.worlds import in_worlds

NUM_MEMBERS, TRAINED, BATCH, BLOCK = 40_000, 2_560, 128, 256
WORLDS, GPUS, SIZES = (1, 2, 4), (8, 64, 256, 1024), (10**7, 10**8, 10**9)
MEMBER_BYTES = 4 * SPACE.num_parameters


@dataclass(frozen=True)
class Measured:
    """Seconds of a step and of its parts, with one number of processes."""

    models_per_second: float
    step: float
    data: float
    reduce: float
    snapshot: float
    """Copying the state, for which training waits."""
    write: float
    """Writing it, for which training does not wait."""
    parameters: int


@dataclass(frozen=True)
class Cluster:
    """Assumptions about the hardware and its use."""

    models_per_second: float = 105_000
    """Models/s of training on a GPU: an H200, the MNIST classifier compiled in float32, measured
    with random weights in memory."""
    per_gpu: int = 512
    """Members per batch on each GPU."""
    gpus_per_node: int = 8
    link: float = 50e9
    """Bytes/s from one GPU to others, within a node and between nodes."""
    latency: float = 20e-6
    """Seconds per message."""
    storage: float = 12e9
    """Bytes/s that a node reads."""
    memory: float = 2e12
    """Bytes of memory per node."""
    checkpoint_seconds: float = 600.0
    """Seconds between checkpoints."""
    row_bytes: int = 64
    """Bytes of memory per rank and member, measured by `dwszoo bench opening`: label, block and
    places."""
    row_seconds: float = 3.3e-7
    """Seconds per rank and member before the first batch, measured there."""


@dataclass(frozen=True)
class Local:
    """Measurements on this machine that do not depend on the GPU."""

    gradient_bytes: int
    staged: float
    """Models per CPU second that a process reads from the node's memory."""
    streamed: float
    """Models per CPU second that it streams from the page cache."""
    snapshot: float
    """Seconds for which training waits at a checkpoint."""


@dataclass(frozen=True)
class Case:
    num_members: int
    num_gpus: int
    cluster: Cluster
    local: Local

    @property
    def order(self) -> Order:
        blocks = np.full(self.num_members // BLOCK, BLOCK)
        return Order.of(blocks, self.cluster.per_gpu * self.num_gpus, HELD)

    @property
    def is_staged(self) -> bool:
        return self.num_members * MEMBER_BYTES <= sources.STAGED_SHARE * self.cluster.memory

    def compute(self) -> float:
        return self.cluster.per_gpu / self.cluster.models_per_second

    def reduce(self) -> float:
        """Seconds of the all-reduce: a ring within each node, a tree of the nodes."""
        cluster, size = self.cluster, self.local.gradient_bytes
        peers = cluster.gpus_per_node
        ring = 2 * (peers - 1) * (size / peers / cluster.link + cluster.latency)
        nodes = self.num_gpus // peers
        return ring + 2 * math.ceil(math.log2(nodes)) * (size / cluster.link + cluster.latency)

    def read(self) -> float:
        """Seconds to read from the node's memory, or to stream at the rate of core or storage."""
        if self.is_staged:
            return self.cluster.per_gpu / self.local.staged
        members = self.cluster.per_gpu * times_read(self.order, self.num_gpus)
        from_storage = self.cluster.gpus_per_node * members * MEMBER_BYTES / self.cluster.storage
        return max(from_storage, members / self.local.streamed)

    def checkpoint(self) -> float:
        """A step's share of the waits for checkpoints."""
        step = max(self.compute() + self.reduce(), self.read())
        return step * self.local.snapshot / self.cluster.checkpoint_seconds

    def open(self) -> float:
        """Seconds before a run's first step."""
        return self.cluster.row_seconds * self.num_members

    def plan(self) -> float:
        """Seconds for a rank to plan an epoch, on this machine."""
        order, start = self.order, time.perf_counter()
        order.epoch(1)
        return time.perf_counter() - start

    def memory(self) -> float:
        """Bytes per node: its ranks' data about each member, and the members if they are staged."""
        of_rows = self.cluster.gpus_per_node * self.cluster.row_bytes
        return self.num_members * (of_rows + MEMBER_BYTES * self.is_staged)


def times_read(order: Order, num_ranks: int) -> float:
    """The number of ranks that read a block, averaged over lanes."""
    shares = [order.share(rank, num_ranks) for rank in range(num_ranks)]
    starts, stops = (np.array([getattr(s, end) for s in shares]) for end in ("start", "stop"))
    firsts = np.searchsorted(stops, order.cuts[:-1], "right")
    lasts = np.searchsorted(starts, order.cuts[1:], "left")
    return float(np.mean(lasts - firsts))


def train(worker, barrier, zoo: Path, folder: Path):
    """Run in each process: train an epoch, and write the time of its parts to measured.json."""
    import torch.distributed as dist

    from pipeline.training.loop import make_trainer

    changes = {"epochs": 1, "members": TRAINED, "batch_size": BATCH}
    config = dws_mnist().training.model_copy(update=changes)
    run = folder / str(worker.world_size)
    run.mkdir(exist_ok=True)
    prepared = {"class_names": [str(digit) for digit in range(10)], "majority": 0}
    trainer = make_trainer(Zoo.open(zoo), run, config, prepared, worker)
    trainer.train()
    parameters = sum(parameter.numel() for parameter in trainer.engine.module.parameters())
    gradient = torch.zeros(parameters)
    dist.barrier()
    reduce = seconds(lambda: dist.all_reduce(gradient))
    snapshot = seconds(trainer.save)
    trainer.writer.wait()
    if worker.rank:
        return
    newest, whole = checkpoint.read_newest(run), run / "copy"
    write = seconds(lambda: checkpoint.write(whole, newest, {}, kept=1))
    epoch = trainer.history.newest
    times = epoch.models_per_second, epoch.step_seconds, epoch.data_seconds
    found = Measured(*times, reduce, snapshot, write, parameters)
    (folder / f"{worker.world_size}.json").write_text(json.dumps(asdict(found)))


def seconds(call, repeats: int = 5) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def measured(zoo: Path, folder: Path) -> Iterator[tuple[int, Measured]]:
    function = import_module("tests.bench.scaling").train  # not of __main__
    for world_size in WORLDS:
        in_worlds(function, [world_size], folder, zoo, folder)
        yield world_size, Measured(**json.loads((folder / f"{world_size}.json").read_text()))


def feed_rate(zoo: Path, staged_share: float) -> float:
    """Models per CPU second of one process, in an epoch after the first."""
    with patch.object(sources, "STAGED_SHARE", staged_share):
        feed = Feed(Zoo.open(zoo), "train", ())
        sum(len(batch) for batch in feed.epoch(1, BATCH))
    start = time.process_time()
    count = sum(len(batch) for batch in feed.epoch(2, BATCH))
    return count / (time.process_time() - start)


def show_measured(zoo: Path, folder: Path) -> Local:
    print("processes  models/s      step      data       sum  snapshot     write")
    for world_size, found in measured(zoo, folder):
        times = found.step, found.data, found.reduce, found.snapshot, found.write
        parts = "".join(f"{1e3 * value:7.1f} ms" for value in times)
        print(f"{world_size:9d}{found.models_per_second:10,.0f}{parts}", flush=True)
    rates = [feed_rate(zoo, share) for share in (sources.STAGED_SHARE, 0.0)]
    return Local(4 * found.parameters, *rates, found.snapshot)


def show_modelled(cluster: Cluster, local: Local):
    for values in (cluster, local):
        print(", ".join(f"{name} {value:,.6g}" for name, value in asdict(values).items()))
    print(
        "         INRs  GPUs  members  compute      sum     read  checkpoint"
        "  M models/s  efficiency     epoch     open  plan  node memory  breaks first"
    )
    for num_members in SIZES:
        for num_gpus in GPUS:
            print(line(Case(num_members, num_gpus, cluster, local)), flush=True)


def line(case: Case) -> str:
    batch = case.num_gpus * case.cluster.per_gpu
    compute, reduce, read, saved = case.compute(), case.reduce(), case.read(), case.checkpoint()
    step, plan = max(compute + reduce, read) + saved, case.plan()
    epoch, memory = case.num_members / batch * step, case.memory()
    over = {
        "sum": reduce / compute,
        "read": read / (compute + reduce),
        "plan": plan / epoch,
        "memory": memory / case.cluster.memory,
    }
    worst = max(over, key=over.get)
    terms = "".join(f"{1e3 * value:6.2f} ms" for value in (compute, reduce, read))
    return (
        f"{case.num_members:13,d}{case.num_gpus:6d}{'staged' if case.is_staged else 'streamed':>9s}"
        f"{terms}{1e6 * saved:9.1f} us{batch / step / 1e6:12.2f}{compute / step:12.0%}"
        f"{epoch:8.1f} s{case.open():7.1f} s{plan:4.1f} s{memory / 1e9:10.0f} GB"
        f"  {worst} ({over[worst]:.0%})"
    )


def main():
    with tempfile.TemporaryDirectory() as scratch:
        folder, generator = Path(scratch), torch.Generator().manual_seed(0)
        rows = torch.randn(NUM_MEMBERS, SPACE.num_parameters, generator=generator)
        make_zoo(folder / "zoo", rows)
        local = show_measured(folder / "zoo", folder)
    show_modelled(Cluster(), local)


if __name__ == "__main__":
    main()
