"""Which tensors of a weight space carry which hidden axes, and pooling and spreading along them.

All layers follow one rule: pick a set S of hidden axes; the tensors that carry all of S are pooled
over their other hidden axes and concatenated, and the output is repeated along the pooled axes.
Features are folded here, `(batch, *hidden sizes, fixed entries * channels)`, as fixed axes mix like
channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, combinations
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from dwsnet.weight_space import Axis, TensorSpec, WeightSpace

AxisSet = tuple[str, ...]
Reduce = Callable[[Tensor, Sequence["Move"], int], list[Tensor]]
"""Takes the features of an axis set, the moves that pool some of its columns, and the number of
channels; returns the pooled columns of each move, without dimension `move.dim`."""


def axis_order(space: WeightSpace) -> list[str]:
    """All hidden axes, last first.

    torch stores weights as (out, in), so in this order folding those of MLPs and CNNs moves no
    data.
    """
    return list(reversed(space.hidden))


def axis_sets(space: WeightSpace) -> list[AxisSet]:
    """All sets of hidden axes that some tensor carries, smallest first, from the empty set on."""
    order = axis_order(space)
    found: dict[AxisSet, None] = {}
    for spec in space.tensors:
        for size in range(len(spec.hidden) + 1):
            found |= dict.fromkeys(combinations(sorted(spec.hidden, key=order.index), size))
    return sorted(found, key=len)


def carriers(space: WeightSpace, axes: AxisSet) -> list[int]:
    """Positions of the tensors that carry all of `axes`."""
    return [i for i, spec in enumerate(space.tensors) if set(axes) <= set(spec.hidden)]


def num_free_parameters(space: WeightSpace) -> int:
    """Dimension of the space of equivariant linear maps between single channels, without bias.

    Hidden axes of size one count as fixed: there is nothing to permute, and some parameters of the
    layer are redundant.
    """
    space = WeightSpace(
        tuple(replace(spec, axes=tuple(map(_fixed_if_alone, spec.axes))) for spec in space.tensors)
    )
    fixed = [spec.num_fixed for spec in space.tensors]
    return sum(sum(fixed[i] for i in carriers(space, axes)) ** 2 for axes in axis_sets(space))


def num_free_biases(space: WeightSpace) -> int:
    """Dimension of the space of vectors invariant to hidden permutations, for one channel."""
    return sum(spec.num_fixed for spec in space.tensors)


def _fixed_if_alone(axis: Axis) -> Axis:
    return replace(axis, hidden=axis.hidden and axis.size > 1)


def adjacent(space: WeightSpace) -> list[list[bool]]:
    """For each pair of tensors, whether they share an axis, hidden or fixed, or are the same."""
    axes = [{axis.name for axis in spec.axes} for spec in space.tensors]
    return [
        [i == j or bool(one & other) for j, other in enumerate(axes)] for i, one in enumerate(axes)
    ]


class Folding:
    """Folds one tensor's features, and unfolds them.

    From `(batch, *spec.shape, channels)` to `(batch, *hidden sizes, fixed entries * channels)`.
    """

    def __init__(self, spec: TensorSpec, order: Sequence[str]):
        self.axes = tuple(sorted(spec.hidden, key=order.index))
        names = [axis.name for axis in spec.axes]
        hidden = [names.index(name) + 1 for name in self.axes]
        fixed = [dim for dim, axis in enumerate(spec.axes, start=1) if not axis.hidden]
        self.dims = [0, *hidden, *fixed, len(spec.axes) + 1]
        self.inverse = [self.dims.index(dim) for dim in range(len(self.dims))]
        self.sizes = [spec.axes[dim - 1].size for dim in hidden + fixed]
        self.as_it_is = not fixed and self.dims == sorted(self.dims)

    def fold(self, features: Tensor) -> Tensor:
        return (
            features if self.as_it_is else features.permute(self.dims).flatten(len(self.axes) + 1)
        )

    def unfold(self, folded: Tensor) -> Tensor:
        return (
            folded
            if self.as_it_is
            else folded.reshape(folded.shape[0], *self.sizes, -1).permute(self.inverse)
        )


class Move(NamedTuple):
    """Columns of an axis set and of one with one more axis: pooled one way, spread the other."""

    small: int
    """Index of the axis set without the axis."""
    large: int
    """Index of the axis set with it."""
    dim: int
    """Dimension of the axis in the features of the larger one."""
    size: int
    """Size of the axis."""
    start_small: int
    start_large: int
    width: int
    """The last three count fixed entries; times channels, they count columns of the features."""

    def columns(self, large: Tensor, channels: int) -> Tensor:
        """A view of the columns that the move pools, or adds to."""
        return large.narrow(-1, self.start_large * channels, self.width * channels)

    def spread(self, small: Tensor, channels: int) -> Tensor:
        return small.narrow(-1, self.start_small * channels, self.width * channels).unsqueeze(
            self.dim
        )

    def continues(self, other: "Move") -> bool:
        """Whether it moves the columns after those of `other` in the same way."""
        return self[:4] == other[:4] and self[4:6] == (
            other.start_small + other.width,
            other.start_large + other.width,
        )


class Incidence:
    """The axis sets of a weight space with their carriers, and the moves between them.

    The features of an axis set S are `(batch, *sizes of S, columns)`, with its carriers
    concatenated in the order of the space.
    """

    def __init__(self, space: WeightSpace):
        self.foldings = [Folding(spec, axis_order(space)) for spec in space.tensors]
        self.fixed = [spec.num_fixed for spec in space.tensors]
        self.axis_sets = axis_sets(space)
        self.carriers = [carriers(space, axes) for axes in self.axis_sets]
        self.own = [self.axis_sets.index(folding.axes) for folding in self.foldings]
        """For each tensor, the index of the set of all its hidden axes."""
        self.moves = [self._moves(s, space.hidden) for s in range(len(self.axis_sets))]
        """For each axis set, the moves that pool into it; adjacent columns that move in the same
        way are one move."""
        self.moves_into = [
            [move for some in self.moves for move in some if move.large == t]
            for t in range(len(self.axis_sets))
        ]
        self.sizes = [tuple(space.hidden[name] for name in axes) for axes in self.axis_sets]
        self.program = self._program()
        """All of this as integers, for the compiled layers."""

    def widths(self, s: int, channels: int) -> list[int]:
        """Columns of each carrier of axis set `s`."""
        return [self.fixed[i] * channels for i in self.carriers[s]]

    def counts(self, s: int) -> list[int]:
        """Number of entries pooled into one, for each carrier of axis set `s`."""
        whole = [prod(self.sizes[self.own[i]]) for i in self.carriers[s]]
        return [entries // prod(self.sizes[s]) for entries in whole]

    def columns(self, channels: int) -> list[int]:
        """Columns of each axis set."""
        return [sum(self.widths(s, channels)) for s in range(len(self.axis_sets))]

    def alone(self, s: int) -> bool:
        """Whether the set is one tensor's own, which others only reach by spreading."""
        return (
            len(self.carriers[s]) == 1
            and self.own[self.carriers[s][0]] == s
            and len(self.moves_into[s]) > 0
        )

    def gather(self, folded: Sequence[Tensor], reduce: Reduce, channels: int) -> list[Tensor]:
        """For each axis set, its carriers' features, pooled over other axes and concatenated.

        Pooled features are pooled further, so that no data is read twice for one axis.
        """
        parts: list[dict[int, Tensor]] = [{} for _ in self.axis_sets]
        gathered: list[Tensor] = [folded[0]] * len(self.axis_sets)
        for s in reversed(range(len(self.axis_sets))):
            parts[s] |= {self._start(s, i): folded[i] for i in self.carriers[s] if self.own[i] == s}
            ordered = [parts[s][start] for start in sorted(parts[s])]
            gathered[s] = ordered[0] if len(ordered) == 1 else torch.cat(ordered, -1)
            moves = self.moves_into[s]
            for move, pooled in zip(moves, reduce(gathered[s], moves, channels), strict=True):
                parts[move.small][move.start_small] = pooled
        return gathered

    def take(self, mapped: Sequence[Tensor], channels: int) -> tuple[Tensor, ...]:
        """Each tensor's folded features from those of its own axis set, in separate memory."""
        return tuple(
            mapped[s]
            if len(self.carriers[s]) == 1
            else mapped[s]
            .narrow(-1, self._start(s, i) * channels, self.fixed[i] * channels)
            .clone(memory_format=torch.contiguous_format)
            for i, s in enumerate(self.own)
        )

    def fold(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(folding.fold(x) for folding, x in zip(self.foldings, features, strict=True))

    def unfold(self, folded: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Folded features of every tensor as `(batch, *spec.shape, channels)`."""
        return tuple(folding.unfold(x) for folding, x in zip(self.foldings, folded, strict=True))

    def _program(self) -> tuple[int, ...]:
        sets = [(prod(sizes), sum(self.widths(s, 1))) for s, sizes in enumerate(self.sizes)]
        tensors = [(s, self._start(s, i), self.fixed[i]) for i, s in enumerate(self.own)]
        moves = [
            (move.small, move.large, move.size, prod(self.sizes[move.large][move.dim :]), *move[4:])
            for some in self.moves
            for move in some
        ]
        sizes = [(len(sizes), *sizes) for sizes in self.sizes]
        return tuple(chain((len(sets), len(tensors), len(moves)), *sets, *tensors, *moves, *sizes))

    def _start(self, s: int, i: int) -> int:
        return sum(self.fixed[j] for j in self.carriers[s] if j < i)

    def _moves(self, s: int, sizes: dict[str, int]) -> list[Move]:
        moves: list[Move] = []
        for i in self.carriers[s]:
            if self.own[i] == s:
                continue
            added = next(name for name in self.foldings[i].axes if name not in self.axis_sets[s])
            larger = tuple(
                name for name in self.foldings[i].axes if name == added or name in self.axis_sets[s]
            )
            t = self.axis_sets.index(larger)
            move = Move(
                s,
                t,
                larger.index(added) + 1,
                sizes[added],
                self._start(s, i),
                self._start(t, i),
                self.fixed[i],
            )
            if moves and move.continues(moves[-1]):
                last = moves.pop()
                move = last._replace(width=last.width + move.width)
            moves.append(move)
        return moves


def mean(features: Tensor, moves: Sequence[Move], channels: int) -> list[Tensor]:
    return [x / move.size for x, move in zip(total(features, moves, channels), moves, strict=True)]


def total(features: Tensor, moves: Sequence[Move], channels: int) -> list[Tensor]:
    return [move.columns(features, channels).sum(move.dim) for move in moves]


def largest(features: Tensor, moves: Sequence[Move], channels: int) -> list[Tensor]:
    return [move.columns(features, channels).amax(move.dim) for move in moves]
