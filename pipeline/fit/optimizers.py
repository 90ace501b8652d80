"""SGD, momentum, Adam and RMSprop as one update of stacked parameters.

Each member has its own optimizer, learning rate and weight decay.

gradient + decay * parameters -> g        like torch.optim's weight_decay
m <- first * m + gain * g                 momentum; not kept if first is 0
v <- second * v + (1 - second) * g^2      not kept if second is None
parameters -= rate * (m / (1 - first^t)) / (sqrt(v / (1 - second^t)) + EPSILON)
                                          the two divisors in brackets are 1 unless corrected
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

EPSILON = 1e-8
PASS = 65_536
"""Number of parameters that a CPU updates at a time, so that an update stays in its cache."""


@dataclass(frozen=True)
class Optimizer:
    first: float = 0.0
    gain: float = 1.0
    second: float | None = None
    corrected: bool = False


OPTIMIZERS = {
    "sgd": Optimizer(),
    "momentum": Optimizer(first=0.9),
    "adam": Optimizer(first=0.9, gain=0.1, second=0.999, corrected=True),
    "rmsprop": Optimizer(second=0.99),
}


def update(
    optimizer: Optimizer,
    step: int,
    rows: Tensor,
    gradient: Tensor,
    m: Tensor,
    v: Tensor,
    rate: Tensor,
    decay: Tensor,
):
    """Update `rows` `(members, parameters)` in place; rate and decay are `(members, 1)`.

    `step` counts from 1. `m` and `v` are updated in place, `gradient` is overwritten.
    """
    height = max(1, PASS // rows.shape[1]) if rows.device.type == "cpu" else len(rows)
    for start in range(0, len(rows), height):
        part = slice(start, start + height)
        _update(
            optimizer, step, rows[part], gradient[part], m[part], v[part], rate[part], decay[part]
        )


def _update(
    optimizer: Optimizer,
    step: int,
    rows: Tensor,
    gradient: Tensor,
    m: Tensor,
    v: Tensor,
    rate: Tensor,
    decay: Tensor,
):
    direction = gradient.addcmul_(rows, decay)
    if optimizer.second is not None:
        v.mul_(optimizer.second).addcmul_(gradient, gradient, value=1 - optimizer.second)
    if optimizer.first:
        direction = m.mul_(optimizer.first).add_(gradient, alpha=optimizer.gain)
    scale = 1.0
    if optimizer.second is not None:
        correction = 1 - optimizer.second**step if optimizer.corrected else 1.0
        direction = direction / v.sqrt().mul_(correction**-0.5).add_(EPSILON)
        scale = 1 - optimizer.first**step if optimizer.corrected else 1.0
    rows.addcmul_(direction, rate, value=-1 / scale)


def segments(names: list[str]) -> list[tuple[slice, str]]:
    """Runs of equal neighbours, as slices: members of one optimizer, or of one activation."""
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    return [(slice(start, end), names[start]) for start, end in pairwise([*starts, len(names)])]


def sorted_for_segments(*names: list[str]) -> Tensor:
    """The order of members that makes their `segments` longest."""
    return torch.tensor(
        sorted(range(len(names[0])), key=lambda i: tuple(column[i] for column in names)),
        dtype=torch.int64,
    )
