"""Speed and quality of fitting INRs: `dwszoo bench fit [FOLDER]`.

The 2-32-32-1 SIREN on scikit-learn's digits at 28x28, with one thread per process and 1 and 2
processes at once. All contenders take the same Adam steps on the same members, so their PSNRs must
agree. Ratios are relative to batched eager PyTorch (`baddbmm`, autograd, fused Adam) in the same
run. The ceiling is the machine's rate of multiply-adds, measured just before, spent on the matrix
products and on `SINE_SLOTS` for each pair of sine and cosine. If there is a GPU, `fit_gpu` follows.

Why C++: steps/s on a 2.75 GHz Sapphire Rapids, all at 24.93 dB after 200 steps, torch 2.13, Numba
0.68, GCC 12.

| candidate                                                        | 1 core | 2 cores | ceiling |
|------------------------------------------------------------------|--------|---------|---------|
| per-model PyTorch loop                                           |  1,740 |   3,450 |     7 % |
| batched eager PyTorch: the reference                             |  2,880 |   5,690 |    12 % |
| batched, gradient by hand                                        |  3,260 |   6,450 |    14 % |
| that step under torch.compile (Inductor C++, 64 members)         |  4,230 |   8,520 |    18 % |
| Numba, fastmath, tiles of 112 points, written for this net alone |  6,210 |  12,690 |    27 % |
| kernel.cpp, any net                                              | 17,580 |  34,910 |    76 % |

Numba and Inductor leave the accumulators of the matrix products to the compiler's vectoriser, which
keeps them in memory.
"""

import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from dwsnet.compiled import FLAGS
from dwsnet.state import unpack
from pipeline.config import FitConfig, SirenConfig
from pipeline.fit import adam
from pipeline.fit.inr import init_rows, inr_space, psnr
from pipeline.fit.seeds import member_keys
from pipeline.signals import coordinates
from tests.rendering import render

INR = SirenConfig()
SPACE = inr_space(INR, 2, 1)
GRID = torch.from_numpy(coordinates((28, 28)))
CONFIG = FitConfig(max_steps=200, learning_rate=1e-3)
SINE_SLOTS = 24
"""Vector operations, each as expensive as a multiply-add, of the polynomials for a sine and a
cosine."""
COMPARED = 4
"""Members that all contenders fit, for the mean PSNR."""


def signals(count: int) -> Tensor:
    """`(count, 1, 784)` in [0, 1]."""
    digits = load_digits().images
    images = torch.from_numpy(digits[np.arange(count) % len(digits)]).float().unsqueeze(1) / 16
    return functional.interpolate(images, size=(28, 28), mode="bilinear").flatten(2)


def per_model_loop(config: FitConfig, rows: Tensor, targets: Tensor) -> Tensor:
    """Fit each member as its own PyTorch network with its own optimizer."""
    return torch.cat(
        [
            batched_autograd(config, row, target)
            for row, target in zip(rows.split(1), targets.split(1), strict=True)
        ]
    )


def batched_autograd(config: FitConfig, rows: Tensor, targets: Tensor) -> Tensor:
    state = {name: part.clone().requires_grad_() for name, part in unpack(SPACE, rows).items()}
    optimizer = torch.optim.Adam(state.values(), lr=config.learning_rate, fused=True)
    grid = GRID.to(rows.device)
    for _ in range(config.max_steps):
        optimizer.zero_grad()
        (render(state, INR, grid) - targets).square().mean((1, 2)).sum().backward()
        optimizer.step()
    return torch.cat([tensor.detach().flatten(1) for tensor in state.values()], 1)


def batched_by_hand(config: FitConfig, rows: Tensor, targets: Tensor) -> Tensor:
    """The eager fit, which is used without the kernel."""
    with mock.patch.object(adam, "find_kernel", return_value=None):
        return fitted_rows(config, targets, rows.device.type)


def compiled_kernel(config: FitConfig, rows: Tensor, targets: Tensor) -> Tensor:
    """kernel.cpp or, on a GPU, the Triton kernel."""
    if adam.find_kernel(INR, (2, *INR.hidden, 1), rows.device.type) is None:
        raise SystemExit("no kernel to measure")
    return fitted_rows(config, targets, rows.device.type)


def fitted_rows(config: FitConfig, targets: Tensor, device: str) -> Tensor:
    return adam.fit(SPACE, INR, config, keys(len(targets)), GRID, targets, device).rows


CONTENDERS: dict[Callable[[FitConfig, Tensor, Tensor], Tensor], int] = {
    batched_autograd: 64,
    per_model_loop: COMPARED,
    batched_by_hand: 64,
    compiled_kernel: 128,
}
"""The contenders and their numbers of members, the reference first."""


@dataclass(frozen=True)
class Speed:
    steps_per_second: float
    peak: float
    """Floating-point operations per second."""
    psnr: float


def keys(count: int) -> np.ndarray:
    return member_keys(0, np.arange(count), np.zeros(count, int))


def measure(contender: Callable, library: Path, barrier) -> Speed:
    """Run one process's share; all processes start at once."""
    torch.set_num_threads(1)
    count = CONTENDERS[contender]
    rows, targets = init_rows(SPACE, INR, keys(count)), signals(count)
    contender(CONFIG.model_copy(update={"max_steps": 3}), rows, targets)
    barrier.wait()
    start = time.perf_counter()
    fitted = contender(CONFIG, rows, targets)
    seconds = time.perf_counter() - start
    barrier.wait()
    peak = max(multiply_adds(library) for _ in range(5))
    quality = psnr(render(unpack(SPACE, fitted[:COMPARED]), INR, GRID), targets[:COMPARED]).mean()
    return Speed(count * CONFIG.max_steps / seconds, peak, float(quality))


def multiply_adds(library: Path) -> float:
    """Floating-point operations per second of one core."""
    count = ctypes.CDLL(str(library)).multiply_adds
    count.argtypes, count.restype = [ctypes.c_int64, ctypes.c_void_p], ctypes.c_int64
    sink = ctypes.c_float(0.5)
    start = time.perf_counter()
    return count(5_000_000, ctypes.byref(sink)) / (time.perf_counter() - start)


def step_operations() -> tuple[int, int]:
    """Floating-point operations of a step's matrix products, and its pairs of sine and cosine."""
    sizes = (2, *INR.hidden, 1)
    products = [6 * fan_in * fan_out for fan_in, fan_out in pairwise(sizes)]
    return len(GRID) * (sum(products) - products[0] // 3), len(GRID) * sum(INR.hidden)


def share_of_ceiling(speeds: list[Speed]) -> float:
    flop, pairs = step_operations()
    return (
        sum(speed.steps_per_second for speed in speeds)
        * (flop + 2 * SINE_SLOTS * pairs)
        / sum(s.peak for s in speeds)
    )


def report(
    name: str, count: int, rate: float, share: float, quality: float, reference: float
) -> str:
    flop, _ = step_operations()
    return (
        f"{name:18} {count:9} {rate / CONFIG.max_steps:8.1f} {rate:9.0f} {rate * flop / 1e9:9.1f}"
        f" {share:8.0%} {quality:8.2f} {rate / reference:6.1f}"
    )


def main():
    print(
        f"{CONFIG.max_steps} steps an INR of {'-'.join(map(str, (2, *INR.hidden, 1)))} on "
        f"{len(GRID)} points"
    )
    print("contender          processes   INRs/s   steps/s   GFLOP/s  ceiling  PSNR/dB  ratio")
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        source = Path(__file__).with_name("peak.cpp")
        subprocess.run(["c++", *FLAGS, str(source), "-o", str(library)], check=True)
        for processes in (1, 2):
            reference = None
            for contender in CONTENDERS:
                with context.Manager() as manager, context.Pool(processes) as pool:
                    barrier = manager.Barrier(processes)
                    speeds = pool.starmap(
                        measure, [(contender, library, barrier)] * processes, chunksize=1
                    )
                rate = sum(speed.steps_per_second for speed in speeds)
                reference = reference or rate
                line = report(
                    contender.__name__,
                    processes,
                    rate,
                    share_of_ceiling(speeds),
                    speeds[0].psnr,
                    reference,
                )
                print(line, flush=True)
    if torch.cuda.is_available():
        from tests.bench import fit_gpu

        fit_gpu.main(*sys.argv[1:])


if __name__ == "__main__":
    from tests.bench import fit  # the name under which other processes can unpickle it

    fit.main()
