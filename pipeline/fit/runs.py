"""The random draws of each run of a classifier zoo, from its own key."""

from collections.abc import Mapping
from math import prod

import numpy as np
import torch
from torch import Tensor

from dwsnet.weight_space import WeightSpace
from pipeline.config import ClassifierZooConfig
from pipeline.distributions import draw
from pipeline.fit.seeds import derive, member_keys, normal, uniform

Runs = Mapping[str, np.ndarray]
"""`(runs,)` each: `run` (number), `seed` (key), hyperparameters by name, `class_0`, `class_1`."""
HYPERPARAMETERS, CLASSES, INIT, IMAGES, ORDER, DROPOUT = range(6)
"""Purposes of random numbers, each with its own key."""
NORMAL_STD = 0.05


def draw_runs(config: ClassifierZooConfig, run: np.ndarray, num_classes: int) -> Runs:
    """The runs with these numbers.

    `class_0` and `class_1` are the classes of outputs 0 and 1, in order; -1 if all are learned.
    """
    seed = member_keys(config.seed, run, np.zeros_like(run))
    names = type(config.hyperparameters).model_fields
    shares = uniform(derive(seed, HYPERPARAMETERS), len(names)) / 2 + 0.5
    drawn = {
        name: np.array(
            [draw(getattr(config.hyperparameters, name), float(share)) for share in column]
        )
        for name, column in zip(names, shares.T, strict=True)
    }
    classes = np.full((len(run), 2), -1)
    if config.classes == "pairs":
        classes = np.sort(np.argsort(uniform(derive(seed, CLASSES), num_classes), 1)[:, :2], 1)
    return {"run": run, "seed": seed, **drawn, "class_0": classes[:, 0], "class_1": classes[:, 1]}


def checkpoint_epochs(config: ClassifierZooConfig, epochs: int) -> list[int]:
    """Epochs of a run that become members: its last, and those of `config` before it."""
    return sorted({epoch for epoch in config.checkpoints if epoch < epochs} | {epochs})


def initial_rows(space: WeightSpace, runs: Runs) -> Tensor:
    """`(runs, parameters)` float32 initial values; biases are zero.

    Fans include the size of a kernel, as in torch.nn.init. The variance is 2 / fan_in (He et al.
    2015) or 2 / (fan_in + fan_out) (Glorot and Bengio 2010).
    """
    keys, count = derive(runs["seed"], INIT), space.num_parameters
    is_uniform = np.char.endswith(runs["init"], "uniform")[:, None]
    values = np.where(is_uniform, uniform(keys, count) * np.float32(3**0.5), normal(keys, count))
    start = 0
    for spec in space.tensors:
        size = prod(spec.shape)
        values[:, start : start + size] *= standard_deviations(spec.shape, runs)[:, None]
        start += size
    return torch.from_numpy(values)


def standard_deviations(shape: tuple[int, ...], runs: Runs) -> np.ndarray:
    """`(runs,)` float32, for a tensor of this shape."""
    if len(shape) == 1:
        return np.zeros(len(runs["init"]), np.float32)
    fan_out, fan_in = (size * prod(shape[2:]) for size in shape[:2])
    schemes = {
        "he": (2 / fan_in) ** 0.5,
        "glorot": (2 / (fan_in + fan_out)) ** 0.5,
        "normal": NORMAL_STD,
    }
    of_scheme = [schemes[scheme.split("_")[0]] for scheme in runs["init"].tolist()]
    return (np.array(of_scheme) * runs["init_scale"]).astype(np.float32)
