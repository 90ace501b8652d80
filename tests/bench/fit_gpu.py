"""The part of `dwszoo bench fit [FOLDER]` for a GPU.

The same contenders, with the Triton kernel instead of kernel.cpp. The ceiling is the GPU's rate of
sines, measured just before, at two for each pair of sine and cosine: the bottleneck of a fused step
with its products on the tensor cores. Then the target, 70,000 INRs by the dws-mnist recipe in 10 s:
on MNIST as Parquet in FOLDER, or on the digits.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from dwsnet.state import unpack
from flows.recipes import dws_mnist
from pipeline.fit import adam
from pipeline.fit.inr import init_rows, psnr
from pipeline.signals import load_signals
from pipeline.zoos.inrs import channels_first
from tests.bench import fit
from tests.rendering import render

CONTENDERS = {
    fit.batched_autograd: 4096,
    fit.per_model_loop: fit.COMPARED,
    fit.batched_by_hand: 4096,
    fit.compiled_kernel: 16384,
}
"""The contenders and their numbers of members, the reference first."""
AIM, SECONDS = 70_000, 10.0
"""INRs by the dws-mnist recipe, and the seconds they may take on an H200."""
PROGRAMS, CHAINS, ROUNDS = 8192, 1024, 4096


@triton.jit
def sines(out, chains: tl.constexpr, rounds: tl.constexpr):
    chain = tl.arange(0, chains)
    x = chain.to(tl.float32)
    for _ in range(rounds):
        x = libdevice.fast_sinf(x)
    tl.store(out + chain, x)


def sines_per_second() -> float:
    out = torch.empty(CHAINS, device="cuda")
    best = min(seconds(lambda: sines[(PROGRAMS,)](out, CHAINS, ROUNDS)) for _ in range(5))
    return PROGRAMS * CHAINS * ROUNDS / best


def seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main(folder: str | None = None):
    print(f"\non {torch.cuda.get_device_name()}")
    print("contender            members   INRs/s   steps/s   GFLOP/s  ceiling  PSNR/dB  ratio")
    roof, reference = sines_per_second() / (2 * fit.step_operations()[1]), None
    for contender, count in CONTENDERS.items():
        rows, targets = (
            init_rows(fit.SPACE, fit.INR, fit.keys(count)).cuda(),
            fit.signals(count).cuda(),
        )
        contender(fit.CONFIG.model_copy(update={"max_steps": 3}), rows, targets)
        fitted = []
        elapsed = seconds(
            lambda: fitted.append(contender(fit.CONFIG, rows, targets))  # noqa: B023
        )
        rate = count * fit.CONFIG.max_steps / elapsed
        reference = reference or rate
        shown = fitted[0][: fit.COMPARED].cpu()
        quality = psnr(
            render(unpack(fit.SPACE, shown), fit.INR, fit.GRID), fit.signals(fit.COMPARED)
        ).mean()
        print(
            fit.report(contender.__name__, count, rate, rate / roof, float(quality), reference),
            flush=True,
        )
    aim(folder, roof)


def aim(folder: str | None, roof: float):
    zoo = dws_mnist().zoo
    if folder is None:
        targets = fit.signals(AIM)
    else:
        targets = channels_first(
            load_signals(zoo.signals.model_copy(update={"path": Path(folder)})).values
        )
    fitted = []
    took = seconds(
        lambda: fitted.append(
            adam.fit(fit.SPACE, zoo.inr, zoo.fit, fit.keys(len(targets)), fit.GRID, targets, "cuda")
        )
    )
    rate, flop = len(targets) * zoo.fit.max_steps / took, fit.step_operations()[0]
    print(
        f"dws-mnist, {len(targets):,} INRs of {zoo.fit.max_steps:,} steps, from keys to PSNR (aim: "
        f"{AIM:,} in {SECONDS:.0f} s)"
    )
    print(
        f"{took:.1f} s, {len(targets) / took:,.0f} INRs/s, {rate:,.0f} steps/s, "
        f"{rate * flop / 1e9:,.0f} GFLOP/s, {rate / roof:.0%} of the ceiling, mean "
        f"{fitted[0].psnr.mean():.2f} dB"
    )
