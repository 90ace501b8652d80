"""Which tensors of a weight space carry which hidden axes, and pooling and spreading along them.

One rule serves every layer: pick a set S of hidden axes; the tensors that carry all of S are pooled over their other
hidden axes, stand side by side, and what comes out is repeated along the axes that were pooled away. Features are
folded here: `(batch, *hidden sizes, fixed entries * channels)`, for fixed axes mix like channels.
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
"""Takes the features of an axis set, the moves that pool some of their columns, and the number of channels; returns what
each move pools, without dimension `move.dim`."""


def axis_order(space: WeightSpace) -> list[str]:
    """All hidden axes, last first: torch stores weights as (out, in), so folding an MLP's or a CNN's moves no data."""
    return list(reversed(space.hidden))


def axis_sets(space: WeightSpace) -> list[AxisSet]:
    """Every set of hidden axes that some tensor carries, smallest first; the empty set is the global one."""
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
    """Dimension of the space of equivariant linear maps, for one input and one output channel, without bias.

    Hidden axes of one entry count as fixed: there is nothing to permute, and some of the layer's parameters do the same.
    """
    space = WeightSpace(
        tuple(replace(spec, axes=tuple(map(_fixed_if_alone, spec.axes))) for spec in space.tensors)
    )
    fixed = [spec.num_fixed for spec in space.tensors]
    return sum(sum(fixed[i] for i in carriers(space, axes)) ** 2 for axes in axis_sets(space))


def num_free_biases(space: WeightSpace) -> int:
    """Dimension of the space of vectors that hidden permutations leave as they are, for one channel."""
    return sum(spec.num_fixed for spec in space.tensors)


def _fixed_if_alone(axis: Axis) -> Axis:
    return replace(axis, hidden=axis.hidden and axis.size > 1)


def adjacent(space: WeightSpace) -> list[list[bool]]:
    """For each pair of tensors whether it is one tensor or they have an axis in common, hidden or fixed."""
    axes = [{axis.name for axis in spec.axes} for spec in space.tensors]
    return [
        [i == j or bool(one & other) for j, other in enumerate(axes)] for i, one in enumerate(axes)
    ]


class Folding:
    """One tensor's features `(batch, *spec.shape, channels)` as `(batch, *hidden sizes, fixed entries * channels)` and back."""

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
    """Some columns of one axis set and of another with one axis more: pooled one way, spread the other."""

    small: int
    """Position of the axis set without the axis."""
    large: int
    """Position of the axis set with it."""
    dim: int
    """Dimension of the axis in the features of the larger one."""
    size: int
    """Entries of the axis."""
    start_small: int
    start_large: int
    width: int
    """Columns are counted in fixed entries here; times channels, they are columns of the features."""

    def columns(self, large: Tensor, channels: int) -> Tensor:
        """What the move pools, or adds to: a view."""
        return large.narrow(-1, self.start_large * channels, self.width * channels)

    def spread(self, small: Tensor, channels: int) -> Tensor:
        return small.narrow(-1, self.start_small * channels, self.width * channels).unsqueeze(
            self.dim
        )

    def continues(self, other: "Move") -> bool:
        """Whether it moves the next columns in the same way as `other` does."""
        return self[:4] == other[:4] and self[4:6] == (
            other.start_small + other.width,
            other.start_large + other.width,
        )


class Incidence:
    """The axis sets of a weight space with their carriers, and how features move between them.

    The features of an axis set S are `(batch, *sizes of S, columns)`, its carriers side by side in the order of the space.
    """

    def __init__(self, space: WeightSpace):
        self.foldings = [Folding(spec, axis_order(space)) for spec in space.tensors]
        self.fixed = [spec.num_fixed for spec in space.tensors]
        self.axis_sets = axis_sets(space)
        self.carriers = [carriers(space, axes) for axes in self.axis_sets]
        self.own = [self.axis_sets.index(folding.axes) for folding in self.foldings]
        """For each tensor the position of the set of all its hidden axes."""
        self.moves = [self._moves(s, space.hidden) for s in range(len(self.axis_sets))]
        """For each axis set the moves that pool its columns; neighbours that move alike move together."""
        self.moves_into = [
            [move for some in self.moves for move in some if move.large == t]
            for t in range(len(self.axis_sets))
        ]
        self.sizes = [tuple(space.hidden[name] for name in axes) for axes in self.axis_sets]
        self.program = self._program()
        """All of this as numbers, for the compiled layers."""

    def widths(self, s: int, channels: int) -> list[int]:
        """Columns of each carrier of axis set `s`."""
        return [self.fixed[i] * channels for i in self.carriers[s]]

    def counts(self, s: int) -> list[int]:
        """Of each carrier of axis set `s`, how many entries are pooled into one."""
        whole = [prod(self.sizes[self.own[i]]) for i in self.carriers[s]]
        return [entries // prod(self.sizes[s]) for entries in whole]

    def columns(self, channels: int) -> list[int]:
        """Columns of each axis set."""
        return [sum(self.widths(s, channels)) for s in range(len(self.axis_sets))]

    def alone(self, s: int) -> bool:
        """Whether the only carrier of the axes has no other hidden axis, and others reach it only by spreading."""
        return (
            len(self.carriers[s]) == 1
            and self.own[self.carriers[s][0]] == s
            and len(self.moves_into[s]) > 0
        )

    def gather(self, folded: Sequence[Tensor], reduce: Reduce, channels: int) -> list[Tensor]:
        """For each axis set the features of its carriers, pooled over their other hidden axes and side by side.

        Pooled features are pooled further: no pass over the same data twice for one axis.
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
        """Each tensor's folded features from those of the set of all its hidden axes: its own memory, nobody's view."""
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
