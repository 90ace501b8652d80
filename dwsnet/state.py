"""Reads and checks input: every error is one sentence that names the tensor and both shapes."""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.autocast import autocast_dtype
from dwsnet.derivatives import is_transformed
from dwsnet.tensor_spec import COUNTER, TensorSpec
from dwsnet.weight_space import WeightSpace


def read_state(
    space: WeightSpace, state: Mapping[str, Tensor]
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """The tensors of stacked state dicts, `(batch, *spec.shape)` each, in the order of the space.

    Tensors may have the shape in which modules store them, `(batch, *spec.stored_shape)`; counters
    of batch norms are ignored. Raises ValueError if a tensor is missing or unknown, and for all
    that `check_networks` finds.
    """
    names = [spec.name for spec in space.tensors]
    for spec in space.tensors:
        if spec.name not in state:
            raise ValueError(
                f"state dict must have tensor {spec.name!r} of shape {_shape(spec.shape)}, found "
                f"{[*state]}"
            )
    for name in state:
        if name not in names and not name.endswith(COUNTER):
            raise ValueError(
                f"state dict must have only tensors {names}, found also {name!r} of "
                f"{_found(state[name])}"
            )
    tensors = tuple(
        x.reshape(x.shape[0], *spec.shape)
        if isinstance(x := state[spec.name], Tensor) and x.shape[1:] == spec.stored_shape
        else x
        for spec in space.tensors
    )
    check_networks(space, tensors)
    return tensors


def write_state(
    space: WeightSpace, tensors: Sequence[Float[Tensor, "batch ..."]]
) -> dict[str, Float[Tensor, "batch ..."]]:
    """The inverse of `read_state`: tensors `(batch, *spec.shape)` as a stacked state dict."""
    check_tensors(space, tensors, ())
    return {spec.name: stored(spec, x) for spec, x in zip(space.tensors, tensors, strict=True)}


def unpack(
    space: WeightSpace, rows: Float[Tensor, "batch parameters"]
) -> dict[str, Float[Tensor, "batch ..."]]:
    """Stacked state dicts from flat parameter vectors, in the order of the space's tensors.

    Returns views `(batch, *spec.shape)`.
    """
    parts = rows.split([prod(spec.shape) for spec in space.tensors], dim=1)
    return {
        spec.name: part.unflatten(1, spec.shape)
        for spec, part in zip(space.tensors, parts, strict=True)
    }


def stored(spec: TensorSpec, tensor: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """A tensor in the shape in which state dicts store it."""
    return tensor if spec.flat_from is None else tensor.flatten(1 + spec.flat_from)


def check_networks(space: WeightSpace, tensors: Sequence[Tensor]):
    """Raise ValueError unless tensors are networks of the space: finite `(batch, *spec.shape)`.

    Finiteness is checked only on the CPU and outside of torch.compile and torch.func: on a GPU it
    would synchronise, it would break a compiled graph, and under vmap there is no single truth
    value.
    """
    check_tensors(space, tensors, ())
    if tensors[0].device.type != "cpu" or torch.compiler.is_compiling() or is_transformed():
        return
    for spec, x in zip(space.tensors, tensors, strict=True):
        if not x.isfinite().all():
            member = int(x.isfinite().flatten(1).all(1).logical_not().nonzero()[0])
            raise ValueError(
                f"tensor {spec.name!r} of {_found(x)} must be finite, found NaN or infinity in "
                f"member {member}"
            )


def check_features(
    space: WeightSpace, features: Sequence[Tensor], channels: int, parameter: Tensor
):
    """Raise ValueError unless features are `(batch, *spec.shape, channels)` for each tensor.

    They must also have the device and dtype of the parameter (`check_like`).
    """
    check_tensors(space, features, (channels,))
    check_like(space, features, parameter)


def check_tensors(
    space: WeightSpace, tensors: Sequence[Tensor], trailing: tuple[int, ...] | None = None
):
    """Raise ValueError unless there is a `(batch, *spec.shape, *trailing)` per tensor of the space.

    All must be floating point, of one batch size, dtype and device. Without `trailing`, any
    dimensions may follow.
    """
    names = [spec.name for spec in space.tensors]
    if len(tensors) != len(names):
        raise ValueError(
            f"there must be one tensor for each of the {len(names)} of the space, {names}, found "
            f"{len(tensors)}"
        )
    first = tensors[0]
    for spec, x in zip(space.tensors, tensors, strict=True):
        shape = spec.shape + (trailing or ())
        if not isinstance(x, Tensor):
            raise ValueError(
                f"tensor {spec.name!r} of shape {_shape(shape)} must be a torch.Tensor, found "
                f"{_found(x)}"
            )
        found = x.shape
        if found[1 : 1 + len(shape)] != shape or (
            trailing is not None and len(found) != 1 + len(shape)
        ):
            turned = found[1:] == spec.shape[::-1] + (trailing or ())
            hint = "; it looks transposed, torch stores (out, in)" if turned else ""
            if found[1:] == spec.stored_shape:
                hint = "; read_state takes it from a state dict"
            raise ValueError(
                f"tensor {spec.name!r} must have shape {_shape(shape)}, found {tuple(found)}{hint}"
            )
        if found[0] == 0:
            raise ValueError(
                f"tensor {spec.name!r} must have at least one member, found shape {tuple(found)}"
            )
        if found[0] != first.shape[0]:
            raise ValueError(
                f"tensor {spec.name!r} must have {len(first)} members as {names[0]!r} has, found "
                f"shape {tuple(found)}"
            )
        if not x.is_floating_point():
            raise ValueError(
                f"tensor {spec.name!r} of {_found(x)} must be floating point, found {x.dtype}"
            )
        if x.dtype != first.dtype or x.device != first.device:
            raise ValueError(
                f"tensor {spec.name!r} of {_found(x)} must be {first.dtype} on {first.device} as "
                f"{names[0]!r} of {_found(first)} is, found {x.dtype} on {x.device}"
            )


def check_like(space: WeightSpace, tensors: Sequence[Tensor], parameter: Tensor):
    """Raise ValueError unless tensors have a parameter's device and (without autocast) dtype."""
    x = tensors[0]
    if x.device != parameter.device or (
        x.dtype != parameter.dtype and autocast_dtype(x.device.type) is None
    ):
        raise ValueError(
            f"tensor {space.tensors[0].name!r} of {_found(x)} must be {parameter.dtype} on "
            f"{parameter.device} as the parameters are, found {x.dtype} on {x.device}"
        )


def check_counts(**counts: int):
    """Raise ValueError for a count that is not an integer of at least 1."""
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {count!r}")


def load_tensors(module: nn.Module, state: Mapping[str, Tensor], source: str, assign: bool = False):
    """`module.load_state_dict`, with one sentence for the first wrong tensor.

    Raises ValueError if a tensor of `source` is missing, unknown or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name, shape in expected.items():
        if name not in state or tuple(state[name].shape) != shape:
            found = tuple(state[name].shape) if name in state else "none"
            raise ValueError(f"{source} must have tensor {name!r} of shape {shape}, found {found}")
    for name in state:
        if name not in expected:
            raise ValueError(
                f"{source} must have {len(expected)} tensors, found also {name!r} of "
                f"{_found(state[name])}"
            )
    module.load_state_dict(state, assign=assign)


def _shape(shape: tuple[int, ...]) -> str:
    return f"(batch, {', '.join(map(str, shape))})"


def _found(x: object) -> str:
    return f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
