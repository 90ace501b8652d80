"""Canonical forms of networks under the symmetries of ReLU and of sine units.

`canonical_signs` (for sine and tanh) is in `dwsnet.symmetry`. All of them keep the function
exactly, commute with hidden permutations, and map all networks that differ by the symmetry they are
named after to the same one (except for a phase of exactly pi / 2).
"""

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from math import inf, pi

import torch
from jaxtyping import Float
from torch import Tensor

from dwsnet.state import check_networks
from dwsnet.symmetry import biases, canonical_signs, scale_units, turn_phases
from dwsnet.weight_space import WeightSpace


def canonical_scales(
    space: WeightSpace, tensors: Sequence[Float[Tensor, "batch ..."]]
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Scale each ReLU unit so that its incoming weights and bias have norm 1.

    Takes and returns `(batch, *spec.shape)`. It proceeds layer by layer from the input, as scaling
    a layer changes the incoming weights of the next; the overall scale ends up in the last layer. A
    dead unit, whose incoming weights and bias are 0, stays unchanged. Raises ValueError if layers
    have no order, as in a residual stream, whose units are computed from each other.
    """
    space.check_roles()
    check_networks(space, tensors)
    tensors = tuple(tensors)
    for axis in forward_order(space):
        for order in (
            inf,
            2,
        ):  # max norm first: squares under- or overflow
            norm = torch.linalg.vector_norm(incoming_to(space, tensors, axis), order, dim=2)
            factor = torch.where(norm > 0, 1 / norm, 1.0).clamp(max=torch.finfo(norm.dtype).max)
            tensors = scale_units(space, tensors, {axis: factor})
    return tensors


def forward_order(space: WeightSpace) -> list[str]:
    """Hidden axes in the order of computation."""
    before: dict[str, set[str]] = {name: set() for name in space.hidden}
    for spec in space.tensors:
        summed = {name for name in spec.hidden if spec.role(name) == "in"}
        for name in spec.hidden:
            if spec.role(name) == "out":
                before[name] |= summed
    try:
        return [*TopologicalSorter(before).static_order()]
    except CycleError as error:
        raise ValueError(
            f"hidden axes must be computed one after the other, found {error.args[1]} computed "
            "from each other"
        ) from error


def incoming_to(
    space: WeightSpace, tensors: Sequence[Float[Tensor, "batch ..."]], axis: str
) -> Float[Tensor, "batch size entries"]:
    """The weights and biases that compute each unit of `axis`, side by side."""
    first = [
        tensor.movedim(1 + spec.position(axis), 1)
        for spec, tensor in zip(space.tensors, tensors, strict=True)
        if spec.role(axis) == "out"
    ]
    return torch.cat([x.flatten(2) if x.ndim > 2 else x.unsqueeze(2) for x in first], 2)


def canonical_phases(
    space: WeightSpace, tensors: Sequence[Float[Tensor, "batch ..."]], omega: float
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Shift phases of sine units by multiples of pi and flip signs: 0 <= omega * bias <= pi / 2.

    Takes and returns `(batch, *spec.shape)`. A SIREN unit computes sin(omega (W h + b)): its phase
    is omega * bias, and shifting the bias itself by pi would change the function. Raises ValueError
    if a hidden axis has no bias.
    """
    check_networks(space, tensors)
    turns = {
        axis: -torch.round(bias * (omega / pi)) for axis, bias in biases(space, tensors).items()
    }
    return canonical_signs(space, turn_phases(space, tensors, turns, omega))
