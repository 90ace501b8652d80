"""Small networks as stacked tensors of a weight space, and their outputs, to test symmetries."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dwsnet.weight_space import WeightSpace

OMEGA = 30.0


def random_network(
    space: WeightSpace, batch: int, seed: int, spread: float = 1.0
) -> tuple[Tensor, ...]:
    """Normal float64 parameters `(batch, *spec.shape)` of standard deviation `spread`."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, *spec.shape, generator=generator, dtype=torch.float64) * spread
        for spec in space.tensors
    )


def render(
    tensors: Sequence[Tensor], inputs: Tensor, activation: Callable[[Tensor], Tensor]
) -> Tensor:
    """`(batch, points, outputs)` of MLPs at `inputs` `(points, in)` or `(batch, points, in)`."""
    values = inputs
    for weight, bias in zip(tensors[:-2:2], tensors[1:-2:2], strict=True):
        values = activation(values @ weight.transpose(1, 2) + bias.unsqueeze(1))
    return values @ tensors[-2].transpose(1, 2) + tensors[-1].unsqueeze(1)


def siren(values: Tensor) -> Tensor:
    """The activation of a SIREN, applied to W h + b."""
    return torch.sin(OMEGA * values)


def largest_difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))
