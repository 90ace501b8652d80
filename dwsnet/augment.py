"""Augmentations: pure functions of stacked networks `(batch, *spec.shape)` and a key per member.

The result for a member depends only on its own key (`keys` is `(batch,)` int64), not on the rest of
the batch; only `mixup` takes a partner from the batch. Two augmentations of the same network need
two keys (`dwsnet.keyed.fold_in`). Inputs are never modified. `permute_hidden`, `flip_signs` and
`move_picture` are exact; noise and masks change the function; `mixup` interpolates networks. All
raise ValueError for tensors that are not networks of the space.
"""

from collections.abc import Sequence
from math import isfinite

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dwsnet.align import match_weights
from dwsnet.keyed import fold_in, normal, uniform
from dwsnet.state import check_networks
from dwsnet.symmetry import permute, scale_units
from dwsnet.weight_space import WeightSpace


def permute_hidden(
    space: WeightSpace,
    tensors: Sequence[Float[Tensor, "batch ..."]],
    keys: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Permute each member's hidden neurons at random: the same functions."""
    _check(space, tensors, keys)
    return permute(
        space,
        tensors,
        {
            name: uniform(fold_in(keys, i), size).argsort(1)
            for i, (name, size) in enumerate(space.hidden.items())
        },
    )


def flip_signs(
    space: WeightSpace,
    tensors: Sequence[Float[Tensor, "batch ..."]],
    keys: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Negate hidden units with probability 1/2: the same functions if activations are odd."""
    _check(space, tensors, keys)
    return scale_units(
        space,
        tensors,
        {
            name: torch.where(uniform(fold_in(keys, i), size) < 0.5, -1.0, 1.0)
            for i, (name, size) in enumerate(space.hidden.items())
        },
    )


def add_noise(
    space: WeightSpace,
    tensors: Sequence[Float[Tensor, "batch ..."]],
    keys: Int[Tensor, " batch"],
    scale: float,
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Add Gaussian noise to every entry.

    Its standard deviation is `scale` times the root mean square of the member's tensor.
    """
    _check(space, tensors, keys)
    _check_number("scale", scale)
    noisy = []
    for i, x in enumerate(tensors):
        size = x.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (x.ndim - 1))  # (batch, 1...)
        noisy.append(x + scale * size * normal(fold_in(keys, i), *x.shape[1:]).to(x))
    return tuple(noisy)


def mask(
    space: WeightSpace,
    tensors: Sequence[Float[Tensor, "batch ..."]],
    keys: Int[Tensor, " batch"],
    probability: float,
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Set each entry to 0 with `probability`, without scaling up the others as dropout does."""
    _check(space, tensors, keys)
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be between 0 and 1, got {probability}")
    return tuple(
        torch.where(uniform(fold_in(keys, i), *x.shape[1:]) < probability, 0, x)
        for i, x in enumerate(tensors)
    )


def move_picture(
    space: WeightSpace,
    tensors: Sequence[Float[Tensor, "batch ..."]],
    linear: Float[Tensor, "batch dims dims"],
    shift: Float[Tensor, "batch dims"],
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Move the picture of INRs: the value at coordinates x moves to `linear @ x + shift`, exactly.

    `linear` is `(batch, dims, dims)` and invertible, `shift` is `(batch, dims)`, both in the INR's
    coordinates. Only the first layer changes, W x + b = W A^-1 (y - t) + b, so this works for any
    activation and omega_0.
    """
    weight_spec, bias_spec = space.tensors[:2]
    if (
        len(weight_spec.axes) != 2
        or bias_spec.axes != weight_spec.axes[:1]
        or weight_spec.axes[1].hidden
        or (weight_spec.roles, bias_spec.roles) != (("out", "in"), ("out",))
    ):
        raise ValueError(
            "an INR must begin with a weight (hidden, inputs) of roles ('out', 'in') and its bias "
            f"of role ('out',), found {weight_spec} and {bias_spec}"
        )
    check_networks(space, tensors)
    batch, dims = len(tensors[0]), weight_spec.shape[1]
    for name, value, shape in (
        ("linear", linear, (batch, dims, dims)),
        ("shift", shift, (batch, dims)),
    ):
        if tuple(value.shape) != shape:
            raise ValueError(
                f"{name} must have shape {shape} for {weight_spec.name!r}, found "
                f"{tuple(value.shape)}"
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
    keys: Int[Tensor, " batch"], dims: int, largest: float
) -> Float[Tensor, "batch {dims}"]:
    """`(batch, dims)` uniform on [-largest, largest], in units of the coordinates."""
    _check_number("largest", largest)
    return largest * (2 * uniform(keys, dims) - 1)


def random_rotations(keys: Int[Tensor, " batch"], largest: float) -> Float[Tensor, "batch 2 2"]:
    """`(batch, 2, 2)` rotations from the first towards the second coordinate; `largest` in
    radians.
    """
    _check_number("largest", largest)
    angle = largest * (2 * uniform(keys) - 1)
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)


def random_zooms(
    keys: Int[Tensor, " batch"], dims: int, largest: float
) -> Float[Tensor, "batch {dims} {dims}"]:
    """`(batch, dims, dims)` scalings about the origin, log-uniform on [1 / largest, largest]."""
    _check_number("largest", largest, positive=True)
    factor = largest ** (2 * uniform(keys, 1, 1) - 1)
    return factor * torch.eye(dims, dtype=factor.dtype, device=factor.device)


def mixup(
    space: WeightSpace,
    tensors: Sequence[Float[Tensor, "batch ..."]],
    targets: Float[Tensor, "batch classes"],
    keys: Int[Tensor, " batch"],
    concentration: float,
) -> tuple[tuple[Float[Tensor, "batch ..."], ...], Float[Tensor, "batch classes"]]:
    """Interpolate each member with another one; also returns soft targets `(batch, classes)`.

    The partner is first aligned to the member by weight matching: an interpolation of networks
    whose neurons are in different orders resembles neither. Partners depend on the keys of the
    batch, not on its order: each member draws a number, and its partner is the next one by that
    number. The partner's share is drawn from Beta(concentration, concentration) for each member
    (Zhang et al. 2018); a concentration of 0 mixes nothing. `targets` are one-hot or soft labels.
    """
    from scipy.special import betaincinv  # imported late: it takes 0.1 s

    _check(space, tensors, keys)
    _check_number("concentration", concentration)
    batch = len(tensors[0])
    if len(targets) != batch or not targets.is_floating_point():
        raise ValueError(
            f"targets must be shares of the classes of {batch} members, one-hot or soft, "
            f"found {targets.dtype} of shape {tuple(targets.shape)}"
        )
    order = uniform(fold_in(keys, 0)).argsort()
    partner = order.roll(-1)[order.argsort()]
    share = torch.zeros(batch, dtype=torch.float64)
    if concentration:
        quantile = uniform(fold_in(keys, 1)).cpu().numpy()
        share = torch.from_numpy(betaincinv(concentration, concentration, quantile))
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
    """Raise ValueError unless the value is finite and not negative, or positive if it must be."""
    if not isfinite(value) or value < 0 or (positive and value == 0):
        expected = "above 0" if positive else "of at least 0"
        raise ValueError(f"{name} must be a finite number {expected}, got {value}")


def _check(space: WeightSpace, tensors: Sequence[Tensor], keys: Tensor):
    check_networks(space, tensors)
    if keys.dtype != torch.int64 or keys.shape != (len(tensors[0]),):
        raise ValueError(
            f"keys must be int64 of shape ({len(tensors[0])},), found {keys.dtype} of shape "
            f"{tuple(keys.shape)}"
        )
