"""Augmentations of networks: pure functions of stacked tensors `(batch, *spec.shape)` and an explicit generator.

Every member gets its own random numbers, inputs are never changed in place, and the caller decides when to augment.
`permute_hidden`, `flip_signs` and `move_picture` are exact; noise and masks change the function; `mixup` makes new
networks between old ones.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dwsnet.align import match_weights
from dwsnet.symmetry import permute, random_permutations, random_signs, scale_units
from dwsnet.weight_space import WeightSpace


def permute_hidden(space: WeightSpace, tensors: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Each member's hidden neurons in a random order of its own: the same functions."""
    return permute(space, tensors, random_permutations(space, len(tensors[0]), generator))


def flip_signs(space: WeightSpace, tensors: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Each hidden unit negated or not, evenly: the same functions if the activation is odd (sine, tanh)."""
    return scale_units(space, tensors, random_signs(space, len(tensors[0]), generator))


def add_noise(tensors: Sequence[Tensor], generator: torch.Generator, scale: float) -> tuple[Tensor, ...]:
    """Gaussian noise of mean 0 on every entry, its standard deviation `scale` times that of the whole stacked tensor."""
    return tuple(x + scale * x.std(correction=0) * _normal(x, generator) for x in tensors)


def mask(tensors: Sequence[Tensor], generator: torch.Generator, probability: float) -> tuple[Tensor, ...]:
    """Each entry 0 with `probability`; the others stay as they are, not scaled up as dropout does."""
    return tuple(torch.where(_uniform(x.shape, generator).to(x.device) < probability, 0, x) for x in tensors)


def move_picture(space: WeightSpace, tensors: Sequence[Tensor], linear: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
    """INRs whose picture is moved: what was at coordinates x comes to `linear @ x + shift`, exactly.

    `linear` is `(batch, dims, dims)` and invertible, `shift` `(batch, dims)`, both in the coordinates that the INR
    takes. Only the first layer changes, W x + b = W A^-1 (y - t) + b, so any activation and omega_0 will do.
    """
    weight_spec, bias_spec = space.tensors[:2]
    if len(weight_spec.axes) != 2 or bias_spec.axes != weight_spec.axes[:1] or weight_spec.axes[1].hidden:
        raise ValueError(f"an INR must begin with a weight (hidden, inputs) and its bias, found {weight_spec} and {bias_spec}")
    weight, bias = tensors[:2]
    moved = torch.linalg.solve(linear.to(weight), weight, left=False)
    return moved, bias - (moved @ shift.to(weight).unsqueeze(2)).squeeze(2), *tensors[2:]


def random_shifts(batch: int, dims: int, generator: torch.Generator, largest: float) -> Tensor:
    """`(batch, dims)` uniform on [-largest, largest], in units of the coordinates."""
    return largest * (2 * _uniform((batch, dims), generator) - 1)


def random_rotations(batch: int, generator: torch.Generator, largest: float) -> Tensor:
    """`(batch, 2, 2)` rotations of the plane, from the first coordinate towards the second; largest angle in radians."""
    angle = largest * (2 * _uniform((batch,), generator) - 1)
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)


def random_zooms(batch: int, dims: int, generator: torch.Generator, largest: float) -> Tensor:
    """`(batch, dims, dims)` uniform scalings about the origin, by a factor log-uniform on [1 / largest, largest]."""
    factor = largest ** (2 * _uniform((batch, 1, 1), generator) - 1)
    return factor * torch.eye(dims, dtype=factor.dtype, device=factor.device)


def mixup(
    space: WeightSpace, tensors: Sequence[Tensor], targets: Tensor, generator: torch.Generator, concentration: float
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Networks on the way from each member to another one, and their soft targets `(batch, classes)`.

    The partner, drawn from the batch, is first aligned to the member by weight matching: between networks whose
    neurons lie in unlike orders there is nothing of either. The partner's share is drawn from
    Beta(concentration, concentration) for each member (Zhang et al. 2018); `targets` are one-hot or soft labels.
    """
    batch = len(tensors[0])
    partner = torch.randperm(batch, generator=generator, device=generator.device).to(tensors[0].device)
    seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
    share = torch.from_numpy(np.random.default_rng(seed).beta(concentration, concentration, batch))
    partners = [x[partner] for x in tensors]
    aligned = permute(space, partners, match_weights(space, tensors, partners))
    mixed = [_between(x, y, share) for x, y in zip(tensors, aligned, strict=True)]
    return tuple(mixed), _between(targets, targets[partner.to(targets.device)], share)


def _between(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return one.lerp(other, share.to(one).view(-1, *[1] * (one.ndim - 1)))


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def _uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
