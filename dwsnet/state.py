"""Reading what comes from outside: every mistake is one sentence that names the tensor and both shapes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dwsnet.weight_space import WeightSpace


def read_state(space: WeightSpace, state: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """The tensors of stacked state dicts, `(batch, *spec.shape)` each, in the order of the space.

    Raises ValueError where a tensor is missing, unknown, of another shape, device or dtype than it must be, where there is
    no member, and, on the CPU and outside of torch.compile, where an entry is not finite.
    """
    names = [spec.name for spec in space.tensors]
    if missing := [name for name in names if name not in state]:
        raise ValueError(f"state dict must have tensors {names}, missing {missing}")
    if unknown := [name for name in state if name not in names]:
        raise ValueError(f"state dict must have tensors {names}, found also {unknown}")
    tensors = tuple(state[name] for name in names)
    for spec, tensor in zip(space.tensors, tensors, strict=True):
        found, expected = tuple(tensor.shape), f"(batch, {', '.join(map(str, spec.shape))})"
        if found[1:] != spec.shape or len(found) != len(spec.shape) + 1:
            hint = "; it looks transposed, torch stores (out, in)" if found[1:] == spec.shape[::-1] else ""
            raise ValueError(f"tensor {spec.name!r} must have shape {expected}, found {found}{hint}")
        if found[0] != len(tensors[0]):
            raise ValueError(
                f"tensor {spec.name!r} must have {len(tensors[0])} members as {names[0]!r} has, found shape {found}"
            )
    check_kinds(names, tensors)
    # On a GPU reading a truth value would wait for all work before it, and inside a compiled graph it would break it.
    if tensors[0].device.type == "cpu" and not torch.compiler.is_compiling():
        check_finite(names, tensors)
    return tensors


def check_kinds(names: Sequence[str], tensors: Sequence[Tensor]):
    """Raises ValueError for an empty batch and for tensors that are not all floating point, on one device, of one dtype."""
    first = tensors[0]
    for name, tensor in zip(names, tensors, strict=True):
        if len(tensor) == 0:
            raise ValueError(f"tensor {name!r} must have at least one member, found shape {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise ValueError(f"tensor {name!r} of shape {tuple(tensor.shape)} must be floating point, found {tensor.dtype}")
        if (tensor.device, tensor.dtype) != (first.device, first.dtype):
            raise ValueError(
                f"tensor {name!r} of shape {tuple(tensor.shape)} must be {first.dtype} on {first.device} as {names[0]!r} of "
                f"shape {tuple(first.shape)} is, found {tensor.dtype} on {tensor.device}"
            )


def check_finite(names: Sequence[str], tensors: Sequence[Tensor]):
    """Raises ValueError for NaN or infinite entries, with the tensor and the first member that has one."""
    for name, tensor in zip(names, tensors, strict=True):
        if not tensor.isfinite().all():
            member = int(tensor.isfinite().flatten(1).all(1).logical_not().nonzero()[0])
            raise ValueError(
                f"tensor {name!r} of shape {tuple(tensor.shape)} must be finite, found NaN or infinity in member {member}"
            )


def check_features(space: WeightSpace, features: Sequence[Tensor], channels: int):
    """Raises ValueError where features are not one `(batch, *spec.shape, channels)` for each tensor of the space."""
    if len(features) != len(space.tensors):
        raise ValueError(
            f"features must be one tensor for each of the {len(space.tensors)} of the space, found {len(features)}"
        )
    for spec, x in zip(space.tensors, features, strict=True):
        if x.shape[1:] != (*spec.shape, channels):
            expected = ", ".join(map(str, (*spec.shape, channels)))
            raise ValueError(f"features of {spec.name!r} must have shape (batch, {expected}), found {tuple(x.shape)}")
