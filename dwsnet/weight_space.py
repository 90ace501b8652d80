"""What a weight space is: named tensors whose axes are hidden or fixed.

A hidden axis indexes the neurons of one hidden layer: their order is arbitrary, so the symmetry group permutes it, and
every tensor that carries the axis is permuted together. A fixed axis (an input coordinate, an output class, a position
in a convolution kernel) has an order that means something.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod


@dataclass(frozen=True)
class Axis:
    name: str
    """Axes of the same name, in whichever tensors, are one axis and are permuted together."""
    size: int
    hidden: bool


@dataclass(frozen=True)
class TensorSpec:
    name: str
    """The tensor's key in a state dict."""
    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def hidden(self) -> tuple[str, ...]:
        """Names of the hidden axes, in the order in which the tensor has them."""
        return tuple(axis.name for axis in self.axes if axis.hidden)

    @property
    def num_fixed(self) -> int:
        """Number of entries along the fixed axes: they behave like channels."""
        return prod(axis.size for axis in self.axes if not axis.hidden)


@dataclass(frozen=True)
class WeightSpace:
    """The weights and biases of one architecture, and which of their axes may be permuted.

    Features over a weight space are a tuple of tensors, one for each `TensorSpec` in order, of shape
    `(batch, *spec.shape, channels)`.
    """

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self):
        if not self.tensors:
            raise ValueError("a weight space needs at least one tensor, got none")
        names = [spec.name for spec in self.tensors]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"tensor names of a weight space must differ, got {sorted(twice)} more than once")
        sizes: dict[str, int] = {}
        for spec in self.tensors:
            if len(set(spec.hidden)) < len(spec.hidden):
                raise ValueError(f"tensor {spec.name!r} must carry each hidden axis once, got {spec.hidden}")
            for axis in spec.axes:
                if axis.size < 1:
                    raise ValueError(f"axis {axis.name!r} of {spec.name!r} must have at least one entry, got {axis.size}")
                if axis.hidden and sizes.setdefault(axis.name, axis.size) != axis.size:
                    raise ValueError(
                        f"hidden axis {axis.name!r} must have one size, got {sizes[axis.name]} and {axis.size} in {spec.name!r}"
                    )

    @classmethod
    def mlp(cls, widths: Sequence[int]) -> "WeightSpace":
        """The space of an MLP with `widths = (inputs, hidden..., outputs)`: `layers.0.weight`, `layers.0.bias`, ...

        Weights are `(out, in)` as in torch. Raises ValueError for fewer than two layers: without a hidden layer there
        is nothing to permute.
        """
        widths = tuple(widths)
        if len(widths) < 3:
            raise ValueError(f"an MLP weight space needs at least two layers (three widths), got widths {widths}")
        last = len(widths) - 1
        axes = [Axis(f"layer{i}", width, hidden=0 < i < last) for i, width in enumerate(widths)]
        tensors = []
        for i, (inputs, outputs) in enumerate(pairwise(axes)):
            tensors.append(TensorSpec(f"layers.{i}.weight", (outputs, inputs)))
            tensors.append(TensorSpec(f"layers.{i}.bias", (outputs,)))
        return cls(tuple(tensors))

    @property
    def hidden(self) -> dict[str, int]:
        """Size of each hidden axis, by name, in order of first appearance."""
        return {axis.name: axis.size for spec in self.tensors for axis in spec.axes if axis.hidden}

    @property
    def num_parameters(self) -> int:
        return sum(prod(spec.shape) for spec in self.tensors)
