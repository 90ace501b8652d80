"""Checks that your own layers commute with hidden permutations."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dwsnet.symmetry import permute, random_permutation
from dwsnet.weight_space import WeightSpace


def random_features(
    space: WeightSpace, batch: int, channels: int, generator: torch.Generator
) -> tuple[Float[Tensor, "{batch} ... {channels}"], ...]:
    """Standard normal float64 features: a tuple of `(batch, *spec.shape, channels)`."""
    return tuple(
        torch.randn(batch, *spec.shape, channels, generator=generator, dtype=torch.float64)
        for spec in space.tensors
    )


def equivariance_error(
    space: WeightSpace,
    layer: Callable[[tuple[Tensor, ...]], Sequence[Tensor]],
    channels: int,
    seed: int = 0,
) -> float:
    """Largest entry of `layer(permute(x)) - permute(layer(x))` in float64.

    x and the permutation are random.
    """
    generator = torch.Generator().manual_seed(seed)
    features = random_features(space, 3, channels, generator)
    permutation = random_permutation(space, generator)
    one = layer(permute(space, features, permutation))
    other = permute(space, layer(features), permutation)
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def assert_equivariant(
    space: WeightSpace,
    layer: Callable[[tuple[Tensor, ...]], Sequence[Tensor]],
    channels: int,
    tolerance: float = 1e-10,
):
    """Raise AssertionError unless `layer` (in float64) commutes with hidden permutations."""
    error = equivariance_error(space, layer, channels)
    assert error <= tolerance, (
        f"layer must be equivariant to {tolerance}, found an error of {error}"
    )


def invariance_error(
    space: WeightSpace, layer: Callable[[tuple[Tensor, ...]], Tensor], channels: int, seed: int = 0
) -> float:
    """Largest entry of `layer(permute(x)) - layer(x)` in float64.

    x and the permutation are random.
    """
    generator = torch.Generator().manual_seed(seed)
    features = random_features(space, 3, channels, generator)
    permutation = random_permutation(space, generator)
    return (layer(permute(space, features, permutation)) - layer(features)).abs().max().item()


def assert_invariant(
    space: WeightSpace,
    layer: Callable[[tuple[Tensor, ...]], Tensor],
    channels: int,
    tolerance: float = 1e-10,
):
    """Raise AssertionError unless `layer` (in float64) is invariant to hidden permutations."""
    error = invariance_error(space, layer, channels)
    assert error <= tolerance, f"layer must be invariant to {tolerance}, found an error of {error}"
