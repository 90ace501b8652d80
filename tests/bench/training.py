"""A whole training step against the official scheme: `python -m tests.bench.training`.

The MNIST classifier, 5 layers of 32 channels over (2, 32, 32, 1): forward, loss, backward, AdamW.
The reference has the layers of the official scheme and the same norm, activation, head and
optimiser, in PyTorch operations. Each case runs in its own process; peak memory is what steps add
to the resident set.

The lower bound of ours at batch 512, where a layer's features are 78 MB: 24 GFLOP, or 62 ms at the
385 GFLOP/s of two cores, and per layer four passes that read and two that write features, 93 ms at
the rates in dwsnet/README.md. Milliseconds on two cores:

    try                                                         128     512
    official scheme                                             520   4,703
    norm and GELU by PyTorch                                    207     924
    norm and GELU as four passes (`dwsnet.norm_gelu`)           100     403
    inside the layers (`dwsnet.normalised`)                      82     327
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet import DWSNetClassifier, WeightSpace, normalised
from dwsnet.normalize import BatchNorm
from tests.bench.layers import peak
from tests.bench.pairwise import DeepSets, PairwiseLayer

BATCHES = (128, 512)
CHANNELS, NUM_LAYERS = 32, 5
LEAST_STEPS, SECONDS = 5, 6.0
PASSES = "ours, norm and GELU in passes"
KINDS = ("official scheme", "ours", PASSES, "ours, norm and GELU by PyTorch")


class NormThenGELU(nn.Module):
    """The norm and activation of the trunk, in PyTorch operations."""

    def __init__(self, norm: BatchNorm):
        super().__init__()
        self.norm = norm
        norm.gelu = False

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(F.gelu(x) for x in self.norm(features))


def classifier(kind: str, space: WeightSpace) -> DWSNetClassifier:
    torch.manual_seed(0)
    model = DWSNetClassifier(space, 10, CHANNELS, NUM_LAYERS, head_width=256)
    trunk = model.encoder.trunk
    if kind not in ("ours", PASSES):
        trunk.norms = nn.ModuleList(map(NormThenGELU, trunk.norms))
    if kind == "official scheme":
        trunk.layers = nn.ModuleList(
            PairwiseLayer(space, CHANNELS if i else 1, CHANNELS, DeepSets)
            for i in range(NUM_LAYERS)
        )
    return model


def measure(kind: str, batch: int) -> tuple[float, float, float]:
    """Milliseconds of the fastest step in some seconds, peak MiB it adds, loss after 3 steps."""
    space = WeightSpace.mlp((2, 32, 32, 1))
    model = classifier(kind, space)
    state = {spec.name: torch.randn(batch, *spec.shape) / 10 for spec in space.tensors}
    labels = torch.arange(batch) % 10
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step(members: int = batch) -> float:
        some = {name: tensor[:members] for name, tensor in state.items()}
        loss = F.cross_entropy(model(some), labels[:members])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    step(2)  # loads what the first step loads
    before = peak("cpu")
    losses = [step() for _ in range(3)]
    times: list[float] = []
    while len(times) < LEAST_STEPS or sum(times) < SECONDS:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3, peak("cpu") - before, losses[-1]


def in_a_process(kind: str, batch: int) -> tuple[float, float, float]:
    command = [sys.executable, "-m", "tests.bench.training", kind, str(batch)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    return tuple(map(float, done.stdout.split()))


def compare(batch: int) -> Iterator[str]:
    """Compare each kind with the official scheme."""
    found = {kind: in_a_process(kind, batch) for kind in KINDS}
    time_before, memory_before, _ = found["official scheme"]
    for kind, (milliseconds, memory, loss) in found.items():
        yield (
            f"batch {batch}: {kind:<31} "
            f"{milliseconds:6,.0f} ms ({time_before / milliseconds:4.1f}x), "
            f"{memory:6,.0f} MiB ({memory / memory_before:.2f}), loss {loss:.4f}"
        )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        inside = patch.object(normalised, "takes", return_value=False)
        with inside if sys.argv[1] == PASSES else nullcontext():
            print(*measure(sys.argv[1], int(sys.argv[2])))
    else:
        for size in BATCHES:
            for line in compare(size):
                print(line, flush=True)
