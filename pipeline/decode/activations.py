"""Activations of members, with their symmetry."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Activation:
    value: Callable[[Tensor, float, float], Tensor]
    """Of z, omega and sigma."""
    parameters: tuple[str, ...] = ()
    """Which of omega and sigma it depends on."""
    is_odd: bool = False
    """f(-z) = -f(z): negating hidden units leaves a network the same function."""


def gaussian(z: Tensor, sigma: float) -> Tensor:
    return torch.exp(-0.5 * (z / sigma).square())


ACTIVATIONS = {
    "sine": Activation(lambda z, omega, _: torch.sin(omega * z), ("omega",), is_odd=True),
    "finer": Activation(
        lambda z, omega, _: torch.sin(omega * (z.abs() + 1) * z), ("omega",), is_odd=True
    ),
    "gaussian": Activation(lambda z, _, sigma: gaussian(z, sigma), ("sigma",)),
    "wavelet": Activation(
        lambda z, omega, sigma: torch.cos(omega * z) * gaussian(z, sigma), ("omega", "sigma")
    ),
    "relu": Activation(lambda z, *_: z.relu()),
    "tanh": Activation(lambda z, *_: z.tanh(), is_odd=True),
    "sigmoid": Activation(lambda z, *_: z.sigmoid()),
    "gelu": Activation(lambda z, *_: F.gelu(z)),
    "linear": Activation(lambda z, *_: z, is_odd=True),
}
ODD = {name for name, activation in ACTIVATIONS.items() if activation.is_odd}
