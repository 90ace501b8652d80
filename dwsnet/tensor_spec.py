"""One tensor of a weight space: its axes, hidden or fixed, and their roles.

A hidden axis indexes the neurons of one hidden layer: their order is arbitrary, so the symmetry
group permutes it, in all tensors that carry it together. A fixed axis (an input coordinate, an
output class, a position in a convolution kernel) has a meaningful order.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

Role = Literal["out", "in", "none"]


@dataclass(frozen=True)
class Axis:
    name: str
    """Axes of the same name, in any tensors, are the same axis and are permuted together."""
    size: int
    hidden: bool


@dataclass(frozen=True)
class TensorSpec:
    name: str
    """The tensor's key in a state dict."""
    axes: tuple[Axis, ...]
    """Axes in any order: layers and permutations only need to know which are permuted together."""
    roles: tuple[Role, ...] | None = None
    """What the tensor does with each axis: computes it ("out"), sums over it ("in"), or neither
    ("none": running statistics, slopes, tensors whose scale a later norm removes). A weight of
    torch is ("out", "in"), an embedding (vocabulary, features) is ("in", "out"). For two tensors
    whose results are multiplied and summed, such as queries and keys, the axis is "out" of one and
    "in" of the other. Signs, scales and phases of units, canonical forms, token rows and the
    editor's expansion need roles, and refuse a space without them."""
    flat_from: int | None = None
    """State dicts store the axes from this one on flattened into one: a weight (out, channels,
    positions) on a flattened picture is stored as (out, channels * positions)."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape in a state dict."""
        if self.flat_from is None:
            return self.shape
        return *self.shape[: self.flat_from], prod(self.shape[self.flat_from :])

    @property
    def hidden(self) -> tuple[str, ...]:
        """Names of the hidden axes, in the tensor's order."""
        return tuple(axis.name for axis in self.axes if axis.hidden)

    @property
    def num_fixed(self) -> int:
        """Number of entries along the fixed axes: they behave like channels."""
        return prod(axis.size for axis in self.axes if not axis.hidden)

    def position(self, axis: str) -> int:
        """The index of the axis with this name."""
        return [known.name for known in self.axes].index(axis)

    @property
    def computed(self) -> int:
        """The position of the axis that the tensor computes, which its roles must say."""
        return (self.roles or ()).index("out")

    def role(self, axis: str) -> Role | None:
        """The role of an axis; None if the tensor does not have the axis or has no roles."""
        names = [known.name for known in self.axes]
        return self.roles[names.index(axis)] if self.roles and axis in names else None


COUNTER = "num_batches_tracked"
"""A buffer of batch norms that no function depends on, and that no space contains."""
