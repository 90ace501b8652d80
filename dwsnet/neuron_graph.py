"""A weight space as a graph: indices of axes are nodes, tensors connect or describe them."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from dwsnet.tensor_spec import Axis, TensorSpec
from dwsnet.weight_space import WeightSpace


class Edges(NamedTuple):
    """A tensor that connects the nodes of two axes, or describes those of one."""

    tensor: int
    """Its index in the space."""
    axes: tuple[str, ...]
    """The axis that it computes, then the one that it sums over, if any."""
    order: tuple[int, ...]
    """Permutation of the tensor's dimensions, batch first, that moves these axes before all
    others."""
    num_positions: int
    """Numbers per edge: the product of the other axes' sizes, as for a kernel."""

    def of(self, tensor: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ... positions"]:
        """`(batch, out, in, positions)`, or `(batch, out, positions)` if there is one axis."""
        moved = tensor.permute(self.order)  # (batch, *axes, *others)
        first = 1 + len(self.axes)
        return moved.flatten(first) if moved.ndim > first else moved.unsqueeze(first)

    def back(
        self, features: Float[Tensor, "batch ... positions channels"], spec: TensorSpec
    ) -> Float[Tensor, "batch ... channels"]:
        """The inverse of `of` on features: `(batch, *spec.shape, channels)`."""
        sizes = [spec.shape[dim - 1] for dim in self.order[1:]]
        x = features.unflatten(-2, sizes[len(self.axes) :] or (1,))
        x = x if sizes[len(self.axes) :] else x.squeeze(-2)  # (batch, *axes, *others, channels)
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return x.permute(*inverse, x.ndim - 1)


class NeuronGraph:
    """The nodes and edges of a weight space.

    A tensor's nodes are the indices of its hidden axes and, if these are fewer than two, of its
    first fixed axes: inputs of a first layer, outputs of a last one. Raises ValueError for a tensor
    without axes, or with more than two hidden ones.
    """

    def __init__(self, space: WeightSpace):
        self.space = space
        self.edges = tuple(edges_of(space, i) for i in range(len(space.tensors)))
        axes = {axis.name: axis for spec in space.tensors for axis in spec.axes}
        names = dict.fromkeys(name for edges in self.edges for name in reversed(edges.axes))
        self.axes: tuple[Axis, ...] = tuple(axes[name] for name in names)

    @property
    def links(self) -> Sequence[Edges]:
        """Edges between two axes, in the order of the space."""
        return [edges for edges in self.edges if len(edges.axes) == 2]


def edges_of(space: WeightSpace, index: int) -> Edges:
    spec = space.tensors[index]
    hidden = [dim for dim, axis in enumerate(spec.axes, start=1) if axis.hidden]
    fixed = [dim for dim, axis in enumerate(spec.axes, start=1) if not axis.hidden]
    if not spec.axes or len(hidden) > 2:
        raise ValueError(
            f"tensor {spec.name!r} must have an axis and at most two hidden ones to be read as "
            f"edges between neurons, found {spec.hidden}"
        )
    nodes = sorted([*hidden, *fixed[: 2 - len(hidden)]])
    roles = [spec.roles[dim - 1] if spec.roles else "none" for dim in nodes]
    if roles == [
        "in",
        "out",
    ]:  # an embedding; torch's weights have the axis that they compute first
        nodes.reverse()
    others = [dim for dim in range(1, len(spec.axes) + 1) if dim not in nodes]
    names = tuple(spec.axes[dim - 1].name for dim in nodes)
    num_positions = prod(spec.shape[dim - 1] for dim in others)
    return Edges(index, names, (0, *nodes, *others), num_positions)
