"""The symmetries of a weight space, and their actions.

All architectures have hidden permutations; odd activations (sine, tanh) also have sign flips of
hidden units, ReLU positive scales, and sine half turns of the phase. Canonical forms under these
are in `dwsnet.canonical`.

A group element is a tensor for each hidden axis, by name: `(size,)`, the same for all members of a
batch, or `(batch, size)`.
"""

from collections.abc import Mapping, Sequence
from math import pi, prod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dwsnet.state import check_networks, check_tensors
from dwsnet.weight_space import TensorSpec, WeightSpace

HiddenPermutation = dict[str, Int[Tensor, "*batch size"]]
"""Entry `i` is the old index of the neuron that moves to index `i`."""
UnitScales = dict[str, Float[Tensor, "*batch size"]]
"""A nonzero factor per hidden unit."""
HalfTurns = dict[str, Tensor]
"""Integers: the phase shift of each unit in multiples of pi."""


def random_permutation(space: WeightSpace, generator: torch.Generator) -> HiddenPermutation:
    """A uniformly random permutation for each hidden axis, on the generator's device."""
    sizes = space.hidden.items()
    return {
        name: torch.randperm(size, generator=generator, device=generator.device)
        for name, size in sizes
    }


def random_permutations(
    space: WeightSpace, batch: int, generator: torch.Generator
) -> HiddenPermutation:
    """Uniformly random permutations for each hidden axis and member, `(batch, size)` each."""
    return {
        name: _uniform(batch, size, generator).argsort(1) for name, size in space.hidden.items()
    }


def random_signs(space: WeightSpace, batch: int, generator: torch.Generator) -> UnitScales:
    """Random signs, 1 or -1 with equal probability, for each hidden unit and member."""
    return {
        name: torch.where(_uniform(batch, size, generator) < 0.5, -1.0, 1.0)
        for name, size in space.hidden.items()
    }


def random_scales(
    space: WeightSpace, batch: int, generator: torch.Generator, largest: float
) -> UnitScales:
    """Factors for each hidden unit and member, log-uniform on [1 / largest, largest]."""
    return {
        name: largest ** (2 * _uniform(batch, size, generator) - 1)
        for name, size in space.hidden.items()
    }


def _uniform(batch: int, size: int, generator: torch.Generator) -> Float[Tensor, "{batch} {size}"]:
    return torch.rand(
        batch, size, generator=generator, device=generator.device, dtype=torch.float64
    )


def permute(
    space: WeightSpace,
    tensors: Sequence[Float[Tensor, "batch ..."]],
    permutation: HiddenPermutation,
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Reorder every hidden axis of tensors `(batch, *spec.shape, ...)`.

    Works on parameters (no channels) and on features (channels last). The function that an MLP's
    parameters compute does not change (Navon et al. 2023, section 4).
    """
    check_tensors(space, tensors)
    _check_elements(space, permutation, tensors[0].shape[0], [*space.hidden])
    result = []
    for spec, tensor in zip(space.tensors, tensors, strict=True):
        for dim, axis in enumerate(spec.axes, start=1):
            if axis.hidden:
                tensor = _reorder(tensor, dim, permutation[axis.name].to(tensor.device))
        result.append(tensor)
    return tuple(result)


def _reorder(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    if index.ndim == 1:
        return tensor.index_select(dim, index)
    return tensor.take_along_dim(_along(tensor, dim, index), dim)


def _along(tensor: Tensor, dim: int, values: Tensor) -> Tensor:
    """Reshape `values` `(size,)` or `(batch, size)` to broadcast along `dim` of `tensor`."""
    shape = [values.shape[0] if values.ndim == 2 else 1] + [1] * (tensor.ndim - 1)
    shape[dim] = -1
    return values.view(shape)


def _check_elements(
    space: WeightSpace, elements: Mapping[str, Tensor], batch: int, required: Sequence[str] = ()
):
    """Raise ValueError for a group element with unknown, missing or misshapen axes."""
    sizes = space.hidden
    for name in (*required, *elements):
        if name not in sizes or name not in elements:
            raise ValueError(
                f"elements must be given by the hidden axes {sizes}, found {[*elements]}"
            )
        found = elements[name]
        if tuple(found.shape) != ((sizes[name],) if found.ndim == 1 else (batch, sizes[name])):
            raise ValueError(
                f"element of hidden axis {name!r} must have shape ({sizes[name]},) or ({batch}, "
                f"{sizes[name]}), found {tuple(found.shape)}"
            )


def scale_units(
    space: WeightSpace, tensors: Sequence[Float[Tensor, "batch ..."]], scales: UnitScales
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Scale hidden units: incoming weights and bias times the factor, outgoing weights over it.

    Takes and returns `(batch, *spec.shape)`; axes not in `scales` are unchanged. The function does
    not change for positive factors with ReLU, and for factors +-1 with odd activations. Raises
    ValueError if the space does not say which tensor computes an axis and which sums over it.
    """
    space.check_roles()
    check_tensors(space, tensors, ())
    _check_elements(space, scales, tensors[0].shape[0])
    result = []
    for spec, tensor in zip(space.tensors, tensors, strict=True):
        for dim, axis in enumerate(spec.axes, start=1):
            role = spec.role(axis.name)
            if axis.name in scales and role != "none":
                factor = _along(tensor, dim, scales[axis.name].to(tensor))
                tensor = tensor * factor if role == "out" else tensor / factor
        result.append(tensor)
    return tuple(result)


def turn_phases(
    space: WeightSpace,
    tensors: Sequence[Float[Tensor, "batch ..."]],
    turns: HalfTurns,
    omega: float,
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Shift phases of sine units by k pi: bias + k pi / omega, outgoing weights times (-1)^k.

    A unit computes sin(omega (W h + b)), so a phase of pi is pi / omega in the bias, and sin(z + k
    pi) = (-1)^k sin(z): the function does not change. Takes and returns `(batch, *spec.shape)`.
    Raises ValueError if a hidden axis has no bias.
    """
    biases(space, tensors)
    _check_elements(space, turns, tensors[0].shape[0], [*space.hidden])
    turned = []
    for spec, tensor in zip(space.tensors, tensors, strict=True):
        if is_bias(spec):
            tensor = tensor + turns[spec.hidden[0]].to(tensor) * (pi / omega)
        for dim, axis in enumerate(spec.axes, start=1):
            if axis.hidden and spec.role(axis.name) == "in":
                tensor = tensor * _along(tensor, dim, 1.0 - 2.0 * (turns[axis.name].to(tensor) % 2))
        turned.append(tensor)
    return tuple(turned)


def canonical_signs(
    space: WeightSpace, tensors: Sequence[Float[Tensor, "batch ..."]]
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Negate each hidden unit with a negative bias: its bias, incoming and outgoing weights.

    For odd activations (sine, tanh) the function does not change, -sin(-z) = sin(z), and one of
    2^units equal networks is chosen. If the bias is 0, the weights that connect the unit to fixed
    axes and to decided units decide: the first of their sums over these units that is not 0 becomes
    positive. Takes and returns `(batch, *spec.shape)`. Raises ValueError if a hidden axis has no
    bias.
    """
    return scale_units(space, tensors, unit_signs(space, tensors))


def unit_signs(
    space: WeightSpace, tensors: Sequence[Float[Tensor, "batch ..."]]
) -> dict[str, Float[Tensor, "batch size"]]:
    """The factors of `canonical_signs`: 1 or -1 for each unit, by hidden axis."""
    check_networks(space, tensors)
    signs = {name: bias.sign() for name, bias in biases(space, tensors).items()}
    decided = {name: sign.abs() for name, sign in signs.items()}
    factors = {name: _factors(sign) for name, sign in signs.items()}
    tensors = scale_units(space, tensors, factors)
    for axis in (*space.hidden, *reversed(space.hidden)):  # there and back: from inputs and outputs
        sign = _sign_of_weights(space, tensors, axis, decided) * (1 - decided[axis])
        decided[axis] = decided[axis] + sign.abs()
        factors[axis] = factors[axis] * _factors(sign)
        tensors = scale_units(space, tensors, {axis: _factors(sign)})
    return factors


def _factors(sign: Float[Tensor, "batch size"]) -> Float[Tensor, "batch size"]:
    return torch.where(sign < 0, -1.0, 1.0)


def _sign_of_weights(
    space: WeightSpace,
    tensors: Sequence[Float[Tensor, "batch ..."]],
    axis: str,
    decided: Mapping[str, Float[Tensor, "batch _"]],
) -> Float[Tensor, "batch size"]:
    """1 or -1 for each unit of `axis`, 0 if weights to decided units and fixed axes say nothing.

    For every weight w, both w and w |w| are summed, over hidden axes only; a sum within rounding
    error counts as 0.
    """
    signs = [torch.zeros_like(decided[axis]).unsqueeze(2)]  # (batch, size, 1)
    for spec, tensor in zip(space.tensors, tensors, strict=True):
        if spec.role(axis) in (None, "none") or is_bias(spec):
            continue
        own, others = 0, []
        for dim, one in enumerate(spec.axes, start=1):
            if one.name == axis:
                own = dim
            elif one.hidden:
                others.append(dim)
                tensor = tensor * _along(tensor, dim, decided[one.name])
        rounding = torch.finfo(tensor.dtype).eps * prod([spec.shape[dim - 1] for dim in others])
        for terms in (tensor, tensor * tensor.abs()):
            total = terms.sum(others, keepdim=True) if others else terms
            largest = terms.abs().sum(others, keepdim=True) if others else terms.abs()
            sign = torch.where(total.abs() > rounding * largest, total.sign(), 0)
            signs.append(sign.movedim(own, 1).flatten(2))  # (batch, size, fixed entries)
    found = torch.cat(signs, 2)
    return found.gather(2, found.abs().argmax(2, keepdim=True)).squeeze(2)


def is_bias(spec: TensorSpec) -> bool:
    """Whether the tensor computes the units of a hidden axis and has no other axis."""
    return len(spec.axes) == 1 and spec.axes[0].hidden and spec.roles == ("out",)


def biases(
    space: WeightSpace, tensors: Sequence[Float[Tensor, "batch ..."]]
) -> dict[str, Float[Tensor, "batch size"]]:
    """The bias of each hidden axis, by name: the tensor that computes it and has no other axis.

    Raises ValueError unless there is exactly one.
    """
    check_tensors(space, tensors, ())
    return {name: tensors[place] for name, place in bias_places(space).items()}


def bias_places(space: WeightSpace) -> dict[str, int]:
    """The index of each hidden axis's bias, by name. Raises ValueError like `biases`."""
    space.check_roles()
    found = {}
    for name in space.hidden:
        own = [
            i for i, spec in enumerate(space.tensors) if is_bias(spec) and spec.hidden == (name,)
        ]
        if len(own) != 1:
            raise ValueError(
                f"hidden axis {name!r} must have one bias, a tensor that computes it and carries "
                f"it alone, found {[space.tensors[i].name for i in own]}"
            )
        (found[name],) = own
    return found
