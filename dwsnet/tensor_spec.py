"""One tensor of a weight space: its axes, which are hidden or fixed, and what it does with them.

A hidden axis indexes the neurons of one hidden layer: their order is arbitrary, so the symmetry
group permutes it, and every tensor that carries the axis is permuted together. A fixed axis (an
input coordinate, an output class, a position in a convolution kernel) has an order that means
something.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

Role = Literal["out", "in", "none"]


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
    """In any order: what permutes with what is all that layers and permutations need to know."""
    roles: tuple[Role, ...] | None = None
    """What the tensor does with each axis: computes it ("out"), sums over it ("in"), or neither
    ("none": running statistics, slopes, what a norm after it makes independent of its scale). A
    weight of torch is ("out", "in"), an embedding (vocabulary, features) is ("in", "out"). Of two
    tensors whose results are multiplied and summed, queries and keys, one has the axis as "out",
    the other as "in". Signs, scales and phases of units, canonical forms, rows and the editor's
    expansion need it, and refuse a space that does not say."""
    flat_from: int | None = None
    """State dicts have the axes from this one on flattened into one: a weight (out, channels,
    positions) that takes a flattened picture is stored as (out, channels * positions)."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """In a state dict."""
        if self.flat_from is None:
            return self.shape
        return *self.shape[: self.flat_from], prod(self.shape[self.flat_from :])

    @property
    def hidden(self) -> tuple[str, ...]:
        """Names of the hidden axes, in the order in which the tensor has them."""
        return tuple(axis.name for axis in self.axes if axis.hidden)

    @property
    def num_fixed(self) -> int:
        """Number of entries along the fixed axes: they behave like channels."""
        return prod(axis.size for axis in self.axes if not axis.hidden)

    def position(self, axis: str) -> int:
        """Which of the axes has this name."""
        return [known.name for known in self.axes].index(axis)

    def role(self, axis: str) -> Role | None:
        """What the tensor does with an axis; None where it does not carry it or does not say."""
        names = [known.name for known in self.axes]
        return self.roles[names.index(axis)] if self.roles and axis in names else None


COUNTER = "num_batches_tracked"
"""The name of a batch norm's buffer that no function depends on, and no space has."""
