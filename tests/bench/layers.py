"""Our layers against the official scheme: `python -m tests.bench.layers`.

Five layers of 32 channels with ReLU in between over (2, 32, 32, 1), forward and backward from a
given gradient, on the same batch. Each case runs in its own process; peak memory is what the step
adds to the resident set. Then the cost per parameter of the input network, for 3 to 24 layers.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet import EquivariantAttention, EquivariantLinear, WeightSpace
from tests.bench.pairwise import DeepSets, PairwiseLayer, SetAttention

WIDTHS = "2,32,32,1"
LEAST_STEPS, SECONDS = 5, 4.0


def stack(
    build: Callable[[WeightSpace, int], nn.Module],
) -> Callable[[WeightSpace, int], nn.Module]:
    return lambda space, num_layers: Stack(build(space, 32 if i else 1) for i in range(num_layers))


class Stack(nn.Module):
    """Layers, each followed by ReLU."""

    def __init__(self, layers: Iterable[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        for layer in self.layers:
            features = tuple(F.relu(x, inplace=True) for x in layer(features))
        return features


KINDS = {
    "pairs ds": stack(lambda space, inputs: PairwiseLayer(space, inputs, 32, DeepSets)),
    "linear": stack(lambda space, inputs: EquivariantLinear(space, inputs, 32)),
    "pairs sab": stack(lambda space, inputs: PairwiseLayer(space, inputs, 32, SetAttention)),
    "attention": stack(lambda space, inputs: EquivariantAttention(space, inputs, 32)),
}
REFERENCES = ("pairs ds", "pairs sab")


def measure(
    kind: str, widths: tuple[int, ...], batch: int, compiled: bool
) -> tuple[float, float, int]:
    """Milliseconds of the fastest step in some seconds, peak MiB it adds, number of parameters."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    space = WeightSpace.mlp(widths)
    model = KINDS[kind](space, 5).to(device)
    features = tuple(torch.randn(batch, *spec.shape, 1, device=device) for spec in space.tensors)
    call = torch.compile(model, fullgraph=True) if compiled else model
    one = model(tuple(x[:1] for x in features))
    torch.autograd.backward(
        one, [torch.ones_like(x) for x in one]
    )  # loads what the first step loads
    before = peak(device)
    gradients = [torch.randn_like(x) for x in model(features)]

    def step() -> float:
        start = time.perf_counter()
        torch.autograd.backward(call(features), gradients)
        model.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    step()  # compiles
    times = []
    while len(times) < LEAST_STEPS or sum(times) < SECONDS:
        times.append(step())
    return (
        min(times) * 1e3,
        peak(device) - before,
        sum(parameter.numel() for parameter in model.parameters()),
    )


def peak(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def in_a_process(*case: str) -> tuple[float, float, int]:
    command = [sys.executable, "-m", "tests.bench.layers", "--case", *case]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(lines[-3]), float(lines[-2]), int(lines[-1])


def compare(batch: int) -> Iterator[str]:
    """Each official set layer, followed by our own, in Python and compiled."""
    for kind, compiled in product(KINDS, (False, True)):
        if kind in REFERENCES and compiled:
            continue
        found = in_a_process(kind, WIDTHS, str(batch), str(int(compiled)))
        if kind in REFERENCES:
            reference, ratios = found, ""
        else:
            speed, memory = reference[0] / found[0], found[1] / max(reference[1], 1)
            ratios = f"  {speed:.1f}x faster, {memory:.2f} of the memory"
        name = f"{kind} compiled" if compiled else kind
        yield f"batch {batch:4d}  {name:32s} {describe(found)}{ratios}"


def describe(measured: tuple[float, float, int]) -> str:
    return f"{measured[0]:7.0f} ms {measured[1]:6.0f} MiB {measured[2]:8d} parameters"


def scaling() -> str:
    """Microseconds of a step per 1,000 parameters of the input network, for MLPs of any depth."""
    rows = []
    for depth in (3, 6, 12, 24):
        widths = (2, *[32] * (depth - 1), 1)
        milliseconds, _, count = in_a_process("linear", ",".join(map(str, widths)), "16", "0")
        per_parameter = milliseconds / WeightSpace.mlp(widths).num_parameters * 1e6 / 16
        rows.append(
            f"{depth:2d} layers  {milliseconds:7.1f} ms  {per_parameter:6.1f} us / 1,000 read  "
            f"{count:9d} of ours"
        )
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--case", nargs=4, metavar=("KIND", "WIDTHS", "BATCH", "COMPILED"), help="one measurement"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 512])
    arguments = parser.parse_args()
    if arguments.case:
        kind, widths, batch, compiled = arguments.case
        print(*measure(kind, tuple(map(int, widths.split(","))), int(batch), compiled == "1"))
        return
    for batch in arguments.batches:
        for row in compare(batch):
            print(row, flush=True)
    print(scaling())


if __name__ == "__main__":
    main()
