"""Hidden permutations, and the one place where they act."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dwsnet.weight_space import WeightSpace

HiddenPermutation = dict[str, Tensor]
"""For each hidden axis by name, an index tensor: entry `i` says which old neuron comes to place `i`."""


def random_permutation(space: WeightSpace, generator: torch.Generator) -> HiddenPermutation:
    """One uniformly random permutation for each hidden axis."""
    return {name: torch.randperm(size, generator=generator) for name, size in space.hidden.items()}


def permute(space: WeightSpace, tensors: Sequence[Tensor], permutation: HiddenPermutation) -> tuple[Tensor, ...]:
    """The tensors with every hidden axis reordered: `(batch, *spec.shape, ...)` in, the same shapes out.

    Works alike on parameters (no channels) and on features (channels last). For an MLP the function that the
    parameters compute does not change (Navon et al. 2023, section 4).
    """
    result = []
    for spec, tensor in zip(space.tensors, tensors, strict=True):
        for dim, axis in enumerate(spec.axes, start=1):
            if axis.hidden:
                tensor = tensor.index_select(dim, permutation[axis.name].to(tensor.device))
        result.append(tensor)
    return tuple(result)


def canonical_signs(space: WeightSpace, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Each hidden unit with a negative bias negated: its bias, its incoming and its outgoing weights.

    For odd activations (sine, tanh) the function that the parameters compute stays exactly as it is, -sin(-z) = sin(z),
    and one of the 2^units equal networks is picked. `(batch, *spec.shape)` in and out; every hidden axis must have one
    tensor that carries it alone, the bias.
    """
    signs = {
        spec.hidden[0]: torch.where(tensor < 0, -1.0, 1.0).to(tensor.dtype)
        for spec, tensor in zip(space.tensors, tensors, strict=True)
        if len(spec.axes) == 1 and spec.hidden
    }
    result = []
    for spec, tensor in zip(space.tensors, tensors, strict=True):
        for dim, axis in enumerate(spec.axes, start=1):
            if axis.hidden:
                shape = [len(tensor)] + [1] * len(spec.axes)
                shape[dim] = axis.size
                tensor = tensor * signs[axis.name].view(shape)
        result.append(tensor)
    return tuple(result)
