"""Augmentations of networks: pure functions of stacked tensors `(batch, *spec.shape)` and an explicit generator.

Every member gets its own random numbers, inputs are never changed in place, and the caller decides when to augment.
`permute_hidden`, `flip_signs` and `move_picture` are exact; noise and masks change the function; `mixup` makes new
networks between old ones. All raise ValueError for tensors that are no networks of the space.
"""

from collections.abc import Sequence
from math import isfinite

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dwsnet.align import match_weights
from dwsnet.state import check_networks
from dwsnet.symmetry import permute, random_permutations, random_signs, scale_units
from dwsnet.weight_space import WeightSpace


def permute_hidden(
    space: WeightSpace, tensors: Sequence[Float[Tensor, "batch ..."]], generator: torch.Generator
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Each member's hidden neurons in a random order of its own: the same functions."""
    check_networks(space, tensors)
    return permute(space, tensors, random_permutations(space, len(tensors[0]), generator))


def flip_signs(
    space: WeightSpace, tensors: Sequence[Float[Tensor, "batch ..."]], generator: torch.Generator
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Each hidden unit negated or not, evenly: the same functions if the activation is odd (sine, tanh)."""
    check_networks(space, tensors)
    return scale_units(space, tensors, random_signs(space, len(tensors[0]), generator))


def add_noise(
    space: WeightSpace,
    tensors: Sequence[Float[Tensor, "batch ..."]],
    generator: torch.Generator,
    scale: float,
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Gaussian noise of mean 0 on every entry, its standard deviation `scale` times that of the whole stacked tensor."""
    check_networks(space, tensors)
    _check_number("scale", scale)
    return tuple(x + scale * x.std(correction=0) * _normal(x, generator) for x in tensors)


def mask(
    space: WeightSpace,
    tensors: Sequence[Float[Tensor, "batch ..."]],
    generator: torch.Generator,
    probability: float,
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Each entry 0 with `probability`; the others stay as they are, not scaled up as dropout does."""
    check_networks(space, tensors)
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be between 0 and 1, got {probability}")
    return tuple(
        torch.where(_uniform(x.shape, generator).to(x.device) < probability, 0, x) for x in tensors
    )


def move_picture(
    space: WeightSpace,
    tensors: Sequence[Float[Tensor, "batch ..."]],
    linear: Float[Tensor, "batch dims dims"],
    shift: Float[Tensor, "batch dims"],
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """INRs whose picture is moved: what was at coordinates x comes to `linear @ x + shift`, exactly.

    `linear` is `(batch, dims, dims)` and invertible, `shift` `(batch, dims)`, both in the coordinates that the INR
    takes. Only the first layer changes, W x + b = W A^-1 (y - t) + b, so any activation and omega_0 will do.
    """
    weight_spec, bias_spec = space.tensors[:2]
    if (
        len(weight_spec.axes) != 2
        or bias_spec.axes != weight_spec.axes[:1]
        or weight_spec.axes[1].hidden
        or (weight_spec.roles, bias_spec.roles) != (("out", "in"), ("out",))
    ):
        raise ValueError(
            f"an INR must begin with a weight (hidden, inputs) of roles ('out', 'in') and its bias of role ('out',), "
            f"found {weight_spec} and {bias_spec}"
        )
    check_networks(space, tensors)
    batch, dims = len(tensors[0]), weight_spec.shape[1]
    for name, value, shape in (
        ("linear", linear, (batch, dims, dims)),
        ("shift", shift, (batch, dims)),
    ):
        if tuple(value.shape) != shape:
            raise ValueError(
                f"{name} must have shape {shape} for {weight_spec.name!r}, found {tuple(value.shape)}"
            )
    weight, bias = tensors[:2]
    try:
        moved = torch.linalg.solve(linear.to(weight), weight, left=False)
    except torch.linalg.LinAlgError as error:
        raise ValueError(
            f"linear must be invertible for every member, found a singular one: {error}"
        ) from error
    return moved, bias - (moved @ shift.to(weight).unsqueeze(2)).squeeze(2), *tensors[2:]


def random_shifts(
    batch: int, dims: int, generator: torch.Generator, largest: float
) -> Float[Tensor, "{batch} {dims}"]:
    """`(batch, dims)` uniform on [-largest, largest], in units of the coordinates."""
    _check_number("largest", largest)
    return largest * (2 * _uniform((batch, dims), generator) - 1)


def random_rotations(
    batch: int, generator: torch.Generator, largest: float
) -> Float[Tensor, "{batch} 2 2"]:
    """`(batch, 2, 2)` rotations of the plane, from the first coordinate towards the second; largest angle in radians."""
    _check_number("largest", largest)
    angle = largest * (2 * _uniform((batch,), generator) - 1)
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)


def random_zooms(
    batch: int, dims: int, generator: torch.Generator, largest: float
) -> Float[Tensor, "{batch} {dims} {dims}"]:
    """`(batch, dims, dims)` uniform scalings about the origin, by a factor log-uniform on [1 / largest, largest]."""
    _check_number("largest", largest, positive=True)
    factor = largest ** (2 * _uniform((batch, 1, 1), generator) - 1)
    return factor * torch.eye(dims, dtype=factor.dtype, device=factor.device)


def mixup(
    space: WeightSpace,
    tensors: Sequence[Float[Tensor, "batch ..."]],
    targets: Float[Tensor, "batch classes"],
    generator: torch.Generator,
    concentration: float,
) -> tuple[tuple[Float[Tensor, "batch ..."], ...], Float[Tensor, "batch classes"]]:
    """Networks on the way from each member to another one, and their soft targets `(batch, classes)`.

    The partner, drawn from the batch, is first aligned to the member by weight matching: between networks whose
    neurons lie in unlike orders there is nothing of either. The partner's share is drawn from
    Beta(concentration, concentration) for each member (Zhang et al. 2018), and 0 for a concentration of 0: nothing is
    mixed. `targets` are one-hot or soft labels.
    """
    check_networks(space, tensors)
    _check_number("concentration", concentration)
    batch = len(tensors[0])
    if len(targets) != batch or not targets.is_floating_point():
        raise ValueError(
            f"targets must be {batch} rows of shares of the classes, one-hot or soft, "
            f"found {targets.dtype} of shape {tuple(targets.shape)}"
        )
    partner = torch.randperm(batch, generator=generator, device=generator.device).to(
        tensors[0].device
    )
    seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
    share = torch.zeros(batch, dtype=torch.float64)
    if concentration:
        rng = np.random.default_rng(seed)
        share = torch.from_numpy(rng.beta(concentration, concentration, batch))
    partners = [x[partner] for x in tensors]
    aligned = permute(space, partners, match_weights(space, tensors, partners))
    mixed = [_between(x, y, share) for x, y in zip(tensors, aligned, strict=True)]
    return tuple(mixed), _between(targets, targets[partner.to(targets.device)], share)


def _between(
    one: Float[Tensor, "batch ..."],
    other: Float[Tensor, "batch ..."],
    share: Float[Tensor, " batch"],
) -> Float[Tensor, "batch ..."]:
    return one.lerp(other, share.to(one).view(-1, *[1] * (one.ndim - 1)))


def _check_number(name: str, value: float, positive: bool = False):
    """Raises ValueError for what is infinite, NaN or below 0, or 0 where it must be positive."""
    if not isfinite(value) or value < 0 or (positive and value == 0):
        expected = "above 0" if positive else "of at least 0"
        raise ValueError(f"{name} must be a finite number {expected}, got {value}")


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(
        like.shape, generator=generator, device=generator.device, dtype=like.dtype
    ).to(like.device)


def _uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
