"""The fit kernel on a GPU: gradients, whole fits, and the corpus of the paper."""

from collections.abc import Iterator

import numpy as np
import torch

from flows.recipes import digits, dws_mnist
from pipeline.config import FitConfig, SirenConfig
from pipeline.fit import adam
from pipeline.fit.gpu import load_gpu_kernel
from pipeline.fit.inr import init_rows, inr_space
from pipeline.fit.seeds import member_keys
from pipeline.signals import coordinates, load_signals
from tests.bench import fit, fit_gpu
from tests.gpu.row import GPU, Row, bounded

NETS = {
    "2-16-16-1": ((16, 16), (8, 8), 1),
    "2-24-16-3": ((24, 16), (7, 9), 3),
    "1-33-1": ((33,), (64,), 1),
    "3-7-20-5-2": ((7, 20, 5), (4, 3, 7), 2),
    "2-128-128-3": ((128, 128), (16, 16), 3),
}
"""Hidden widths, grid and channels of nets that the kernel fits."""


def problem(hidden: tuple[int, ...], grid: tuple[int, ...], channels: int, members: int = 64):
    """A fit of noise: weight space, net, initial rows, points and targets."""
    inr = SirenConfig(hidden=hidden)
    space = inr_space(inr, len(grid), channels)
    keys = member_keys(3, np.arange(members), np.zeros(members, int))
    points = torch.from_numpy(coordinates(grid))
    noise = torch.rand(members, channels, len(points), generator=torch.Generator().manual_seed(0))
    return space, inr, init_rows(space, inr, keys), points, noise - 0.5


def kernel_gradients() -> Iterator[Row]:
    """The fit kernel's gradient against double precision: TF32 rounds to 2^-11."""
    for net, (hidden, grid, channels) in NETS.items():
        space, inr, rows, points, targets = problem(hidden, grid, channels)
        wanted, _ = adam.gradients(space, inr, rows.double(), points.double(), targets.double())
        moved = rows.to(GPU, copy=True)
        # So large an epsilon makes Adam's first step the gradient itself, times 2^20.
        load_gpu_kernel((len(grid), *hidden, channels))(
            (len(grid), *hidden, channels),
            points.to(GPU),
            targets.to(GPU),
            moved,
            torch.zeros(len(rows), dtype=torch.int64, device=GPU),
            omega=inr.omega,
            rates=torch.tensor([2.0**20 * 1e20], dtype=torch.float64),
            target_psnr=None,
            check_every=10,
            betas=(0.9, 0.999),
            epsilon=1e20,
        )
        gradient = (rows - moved.cpu()) / 2**20
        error = ((gradient - wanted).norm(dim=1) / wanted.norm(dim=1)).max().item()
        yield bounded(f"fit kernel {net}: gradient", error, 2e-3 if len(hidden) > 1 else 2e-5)


def kernel_fits() -> Iterator[Row]:
    """Whole fits by the kernel and by PyTorch: quality, and where the stop rule ends them."""
    zoo = digits().zoo
    images = torch.from_numpy(load_signals(zoo.signals).values[:256]).flatten(1).unsqueeze(1)
    keys = member_keys(0, np.arange(256), np.zeros(256, int))
    space, grid = inr_space(zoo.inr, 2, 1), torch.from_numpy(coordinates((8, 8)))
    for config in (zoo.fit, FitConfig(learning_rate=1e-3, max_steps=300, schedule="cosine")):
        ours = adam.fit(space, zoo.inr, config, keys, grid, images, "cuda")
        again = adam.fit(space, zoo.inr, config, keys, grid, images, "cuda")
        reference = adam.fit(space, zoo.inr, config, keys, grid, images, "cpu")
        name = f"fit of digits, target {config.target_psnr}, {config.schedule}"
        yield bounded(f"{name}: mean dB off", abs((ours.psnr - reference.psnr).mean()), 0.1)
        moved = abs((ours.steps - reference.steps).mean()) / reference.steps.mean()
        yield bounded(f"{name}: mean steps off", moved, 0.02)
        yield bounded(f"{name}: twice", (ours.rows - again.rows).abs().max().item(), 0.0)


def corpus() -> Iterator[Row]:
    """70,000 fits by the dws-mnist recipe, on digits drawn 28x28."""
    recipe = dws_mnist().zoo
    roof = fit_gpu.sines_per_second() / (2 * fit.step_operations()[1])
    keys, targets = fit.keys(fit_gpu.AIM), fit.signals(fit_gpu.AIM)
    adam.fit(fit.SPACE, recipe.inr, recipe.fit, keys[:64], fit.GRID, targets[:64], "cuda")
    fitted = []
    took = fit_gpu.seconds(
        lambda: fitted.append(
            adam.fit(fit.SPACE, recipe.inr, recipe.fit, keys, fit.GRID, targets, "cuda")
        )
    )
    rate = len(targets) * recipe.fit.max_steps / took
    yield Row(
        f"dws-mnist: {len(targets):,} INRs",
        f"{took:.1f} s, {len(targets) / took:,.0f} INRs/s, {rate:,.0f} steps/s, "
        f"{rate / roof:.0%} of the ceiling of sines, {fitted[0].psnr.mean():.2f} dB",
        f"{fit_gpu.SECONDS:.0f} s (an aim)",
    )
