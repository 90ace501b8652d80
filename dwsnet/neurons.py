"""Tracks which dimensions of a value hold a network's neurons on its way through a module.

Any operation may be applied to the network's input, which has no neurons: all its entries are
fixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dwsnet.tensor_spec import Axis, Role, TensorSpec


@dataclass(frozen=True)
class Dim:
    """One dimension of a value: an axis of neurons, or none (positions, members of a batch)."""

    axis: Axis | None = None
    flat: bool = False
    """Whether the positions of a picture are flattened into it, grouped by neuron."""


@dataclass(frozen=True)
class Value:
    dims: tuple[Dim, ...] | None
    """The last dimensions; None for what depends only on the network's input."""
    all_known: bool = False
    """Whether only the batch dimension comes before them."""
    scalable: bool = True
    """Whether scaling a neuron scales the next layer's input by the same factor."""


INPUT = Value(None)


@dataclass
class Description:
    """The tensors of the layers so far, in the order of application."""

    tensors: list[TensorSpec] = field(default_factory=list)
    num_computed: int = 0
    """Number of layers that have computed neurons."""

    def add(
        self, layer: str, parameter: str, axes: Sequence[Axis], roles: Sequence[Role], flat: bool
    ):
        """Add a tensor; if `flat`, its last axis is flattened into the one before."""
        flat_from = len(axes) - 2 if flat else None
        self.tensors.append(
            TensorSpec(f"{layer}.{parameter}", tuple(axes), tuple(roles), flat_from)
        )

    def compute(self, size: int) -> Axis:
        self.num_computed += 1
        return Axis(f"layer{self.num_computed}", size, hidden=True)

    def input(self, layer: str, size: int) -> Axis:
        """The network's input as a layer takes it: the same axis for layers of equal size."""
        same = Axis("layer0", size, hidden=False)
        others = {axis for spec in self.tensors for axis in spec.axes if axis.name == same.name}
        return same if others <= {same} else Axis(f"{layer}.input", size, hidden=False)

    def forget_scale(self, axis: Axis):
        """Drop "out" roles of an axis, as its scale does not matter after a norm."""
        for i, spec in enumerate(self.tensors):
            if spec.role(axis.name) == "out":
                roles = [
                    "none" if known == axis else role
                    for known, role in zip(spec.axes, spec.roles or (), strict=True)
                ]
                self.tensors[i] = replace(spec, roles=tuple(roles))


def read_axes(to: Description, name: str, value: Value, dim: int, size: int) -> tuple[Axis, ...]:
    """The axes of dimension `dim` (counted from the end, of this size) that layer `name` takes."""
    if value.dims is None:
        return (to.input(name, size),)
    axis = value.dims[dim].axis if -dim <= len(value.dims) else None
    if axis is None:
        known = [one.axis.name for one in value.dims if one.axis]
        raise ValueError(
            f"layer {name!r} must take the neurons of the layer before, but takes dimension {dim} "
            f"and they ({', '.join(known)}) are elsewhere: flatten or average the positions first"
        )
    if size != axis.size and not (value.dims[dim].flat and size % axis.size == 0):
        raise ValueError(
            f"layer {name!r} must take the {axis.size} outputs of the layer before, found {size} "
            "inputs"
        )
    if size == axis.size:
        return (axis,)
    return axis, Axis(f"{name}.position", size // axis.size, hidden=False)


def channel_dim(name: str, value: Value) -> int:
    """The dimension after the batch, from the end: for a linear layer's output, the last one."""
    if value.dims is None:
        return -1
    if not value.all_known and len(value.dims) > 1:
        raise ValueError(
            f"layer {name!r} must have its channels after the batch, but what it takes is of "
            "unknown dimensions"
        )
    return -len(value.dims)


def over_positions(name: str, value: Value, num_positions: int) -> Value:
    """The output of an operation on the last dimensions: pooling, padding, resizing."""
    if value.dims is not None and (
        len(value.dims) < num_positions + 1 or any(dim.axis for dim in value.dims[-num_positions:])
    ):
        raise ValueError(
            f"{name!r} must pool, pad or resize positions, {num_positions} dimensions after the "
            f"channels, found {describe(value)}"
        )
    return value


def flattened(name: str, value: Value, start: int, end: int) -> Value:
    """Merge dimensions `start` to `end`, of which neurons must come first."""
    if value.dims is None or (len(value.dims) == 1 and (start, end) in ((1, -1), (-1, -1), (1, 1))):
        return value
    first, last = (_position(name, value, dim) for dim in (start, end))
    merged = value.dims[first : last + 1]
    if any(dim.axis for dim in merged[1:]):
        raise ValueError(
            f"{name!r} must flatten neurons with the positions after them, found positions before "
            "them"
        )
    one = replace(merged[0], flat=bool(merged[0].axis) and (merged[0].flat or len(merged) > 1))
    return replace(value, dims=(*value.dims[:first], one, *value.dims[last + 1 :]))


def reduced(name: str, value: Value, dims: Sequence[int], keepdim: bool) -> Value:
    """A mean, sum or maximum over positions."""
    if value.dims is None:
        return value
    which = {_position(name, value, dim) for dim in dims}
    if any(value.dims[i].axis for i in which):
        raise ValueError(
            f"{name!r} must be over positions, not over neurons, found dims {[*dims]} of "
            f"{describe(value)}"
        )
    kept = [dim for i, dim in enumerate(value.dims) if keepdim or i not in which]
    return replace(value, dims=tuple(kept))


def _position(name: str, value: Value, dim: int) -> int:
    """The index of dimension `dim` among the known ones. Raises ValueError if it is unknown."""
    count = len(value.dims or ())
    i = dim - 1 if dim >= 0 else count + dim
    if not 0 <= i < count or (dim >= 0 and not value.all_known):
        raise ValueError(
            f"{name!r} must be over dimensions of neurons or positions, cannot tell what dimension "
            f"{dim} of {describe(value)} is"
        )
    return i


def describe(value: Value) -> str:
    names = ", ".join(dim.axis.name if dim.axis else "positions" for dim in value.dims or ())
    return f"({'batch' if value.all_known else '...'}, {names})"
