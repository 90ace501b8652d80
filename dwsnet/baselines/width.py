"""The same number of parameters for every model: a comparison that is not one of sizes."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from dwsnet.models import num_parameters

Model = TypeVar("Model", bound=nn.Module)


def widest(build: Callable[[int], Model], limit: int) -> Model:
    """`build(width)` with the largest width at which it has at most `limit` parameters; with width 1 if none is so small.

    Models to count are built on the meta device: nothing is allocated for them, nothing drawn.
    """

    def fits(width: int) -> bool:
        with torch.device("meta"):
            return num_parameters(build(width)) <= limit

    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return build(low)
