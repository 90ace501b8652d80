"""Compares a recipe with the DWSNets authors' corpus: `dwszoo bench corpus dws-mnist FOLDER`.

Fits 1,000 images of FOLDER (MNIST or Fashion-MNIST as Parquet), spread evenly over the train split,
as in the recipe; then prints the standard deviation of each tensor over all members next to that of
the released INRs.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from dwsnet.state import unpack
from flows.recipes import RECIPES
from pipeline.fit.adam import Fit, fit
from pipeline.fit.inr import inr_space
from pipeline.fit.seeds import member_keys
from pipeline.signals import Signals, coordinates, load_signals

RELEASED = {
    "dws-mnist": (0.0628, 0.0213, 0.0183, 0.0110, 0.1179, 0.0999),
    "dws-fashion": (0.0782, 0.0286, 0.0324, 0.0167, 0.1346, 0.0960),
}
"""Standard deviations of the released INRs, from the statistics in mkofinas/neural-graphs."""
NUM_IMAGES, PART = 1000, 50


def main(name: str, folder: str):
    zoo = RECIPES[name]().zoo
    signals = load_signals(zoo.signals.model_copy(update={"path": Path(folder)}))
    index = np.flatnonzero(~signals.held_out)
    index = index[np.arange(NUM_IMAGES) * len(index) // NUM_IMAGES]
    space = inr_space(zoo.inr, len(signals.grid), signals.num_channels)
    start = time.perf_counter()
    parts = fit_parts(zoo, space, signals, index)
    seconds = time.perf_counter() - start
    psnr = np.concatenate([part.psnr for part in parts])
    print(
        f"{name}: {len(index):,} INRs in {seconds:.0f} s, {len(index) / seconds:.1f} INRs/s, mean "
        f"{psnr.mean():.1f} dB"
    )
    tensors = unpack(space, torch.cat([part.rows for part in parts]))
    print(f"{'standard deviation':20} {'released':>9} {'here':>9} {'ratio':>7}")
    for (tensor_name, tensor), released in zip(tensors.items(), RELEASED[name], strict=True):
        print(
            f"{tensor_name:20} {released:9.4f} {tensor.std():9.4f} {tensor.std() / released:7.3f}"
        )


def fit_parts(zoo, space, signals: Signals, index: np.ndarray) -> list[Fit]:
    """Fit the signals, on all cores."""
    torch.set_num_threads(1)
    points = torch.from_numpy(coordinates(signals.grid))

    def fit_part(part: np.ndarray) -> Fit:
        targets = torch.from_numpy(signals.values[part]).flatten(1, -2).transpose(1, 2).contiguous()
        return fit(
            space,
            zoo.inr,
            zoo.fit,
            member_keys(zoo.seed, part, np.zeros_like(part)),
            points,
            targets,
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(fit_part, np.split(index, range(PART, len(index), PART))))


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in RELEASED:
        sys.exit(
            f"expected a recipe ({' or '.join(RELEASED)}) and a folder of Parquet files, found "
            f"{sys.argv[1:]}"
        )
    main(*sys.argv[1:])
