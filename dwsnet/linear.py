"""The equivariant affine layer and the invariant one, from one incidence rule.

Navon et al. 2023 (section 5) characterise every affine map between weight spaces that commutes with hidden
permutations, block by block. All blocks follow from one rule: pick a set S of hidden axes; every tensor that carries
all of S is averaged over its other hidden axes, one linear map (which mixes channels and fixed axes) takes those
averages of all such tensors to all such tensors, and the result is repeated along the axes that were averaged away.
Summed over all S this gives `2^(shared hidden axes) x fixed entries in x fixed entries out` free parameters for each
pair of tensors and of channels, which is the dimension of the whole space of equivariant maps.
"""

from collections.abc import Sequence
from itertools import combinations
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.weight_space import TensorSpec, WeightSpace

AxisSet = tuple[str, ...]


def axis_sets(space: WeightSpace) -> list[AxisSet]:
    """Every set of hidden axes that some tensor carries, smallest first; the empty set is the global one."""
    found: dict[frozenset[str], AxisSet] = {}
    for spec in space.tensors:
        for size in range(len(spec.hidden) + 1):
            for axes in combinations(spec.hidden, size):
                found.setdefault(frozenset(axes), axes)
    return sorted(found.values(), key=len)


def carriers(space: WeightSpace, axes: AxisSet) -> list[int]:
    """Positions of the tensors that carry all of `axes`."""
    return [i for i, spec in enumerate(space.tensors) if set(axes) <= set(spec.hidden)]


def num_free_parameters(space: WeightSpace) -> int:
    """Dimension of the space of equivariant linear maps, for one input and one output channel, without bias.

    Holds when every hidden axis has at least two entries (papers' d_k >= 2).
    """
    fixed = [spec.num_fixed for spec in space.tensors]
    return sum(sum(fixed[i] for i in carriers(space, axes)) ** 2 for axes in axis_sets(space))


def fold(spec: TensorSpec, features: Tensor) -> Tensor:
    """`(batch, *spec.shape, channels)` to `(batch, *hidden sizes, fixed entries * channels)`."""
    hidden = [dim for dim, axis in enumerate(spec.axes, start=1) if axis.hidden]
    fixed = [dim for dim, axis in enumerate(spec.axes, start=1) if not axis.hidden]
    return features.permute(0, *hidden, *fixed, features.ndim - 1).flatten(len(hidden) + 1)


def unfold(spec: TensorSpec, folded: Tensor) -> Tensor:
    """The inverse of `fold`."""
    hidden = [dim for dim, axis in enumerate(spec.axes, start=1) if axis.hidden]
    fixed = [dim for dim, axis in enumerate(spec.axes, start=1) if not axis.hidden]
    sizes = [spec.axes[dim - 1].size for dim in fixed]
    features = folded.unflatten(-1, (*sizes, folded.shape[-1] // prod(sizes)))
    order = [0, *hidden, *fixed]
    return features.permute(*(order.index(dim) for dim in range(len(order))), features.ndim - 1)


def pool(spec: TensorSpec, folded: Tensor, axes: AxisSet) -> Tensor:
    """Mean over the hidden axes that are not in `axes`; what is left is in the order of `axes`."""
    away = [dim for dim, name in enumerate(spec.hidden, start=1) if name not in axes]
    kept = [name for name in spec.hidden if name in axes]
    pooled = folded.mean(away) if away else folded
    return pooled.permute(0, *(kept.index(name) + 1 for name in axes), pooled.ndim - 1)


def spread(spec: TensorSpec, pooled: Tensor, axes: AxisSet) -> Tensor:
    """The inverse of `pool` up to broadcasting: size 1 along the hidden axes of `spec` that are not in `axes`."""
    kept = [name for name in spec.hidden if name in axes]
    ordered = pooled.permute(0, *(axes.index(name) + 1 for name in kept), pooled.ndim - 1)
    for dim, name in enumerate(spec.hidden, start=1):
        if name not in axes:
            ordered = ordered.unsqueeze(dim)
    return ordered


class EquivariantLinear(nn.Module):
    """Every affine map from features over `space` to features over `space` that commutes with hidden permutations.

    Takes and returns a tuple of `(batch, *spec.shape, channels)`.
    """

    def __init__(self, space: WeightSpace, in_channels: int, out_channels: int):
        super().__init__()
        self.space, self.in_channels, self.out_channels = space, in_channels, out_channels
        self.axis_sets = axis_sets(space)
        self.carriers = [carriers(space, axes) for axes in self.axis_sets]
        fixed = [spec.num_fixed for spec in space.tensors]
        self.weights = nn.ParameterList(
            torch.empty(sum(fixed[i] for i in members) * out_channels, sum(fixed[i] for i in members) * in_channels)
            for members in self.carriers
        )
        self.biases = nn.ParameterList(torch.empty(count * out_channels) for count in fixed)
        self.reset_parameters()

    def reset_parameters(self):
        """He initialisation, shared evenly among the terms that add up in each output tensor."""
        for members, weight in zip(self.carriers, self.weights, strict=True):
            nn.init.normal_(weight, std=(2 / weight.shape[1]) ** 0.5)
            with torch.no_grad():
                for i, rows in zip(members, weight.split(self._rows(members)), strict=True):
                    rows *= 2 ** (-len(self.space.tensors[i].hidden) / 2)
        for bias in self.biases:
            nn.init.zeros_(bias)

    def _rows(self, members: Sequence[int]) -> list[int]:
        return [self.space.tensors[i].num_fixed * self.out_channels for i in members]

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        specs = self.space.tensors
        folded = [fold(spec, x) for spec, x in zip(specs, features, strict=True)]
        outputs: list[Tensor] = list(self.biases)
        for axes, members, weight in zip(self.axis_sets, self.carriers, self.weights, strict=True):
            pooled = torch.cat([pool(specs[i], folded[i], axes) for i in members], -1)
            mapped = F.linear(pooled, weight).split(self._rows(members), -1)
            for i, part in zip(members, mapped, strict=True):
                outputs[i] = spread(specs[i], part, axes) + outputs[i]
        return tuple(unfold(spec, y) for spec, y in zip(specs, outputs, strict=True))

    def extra_repr(self) -> str:
        return f"{len(self.space.tensors)} tensors, {self.in_channels} -> {self.out_channels} channels"


class InvariantLinear(nn.Module):
    """Every affine map from features over `space` to a vector that hidden permutations leave unchanged.

    Takes a tuple of `(batch, *spec.shape, in_channels)`, returns `(batch, out_features)`.
    """

    def __init__(self, space: WeightSpace, in_channels: int, out_features: int):
        super().__init__()
        self.space = space
        self.linear = nn.Linear(sum(spec.num_fixed for spec in space.tensors) * in_channels, out_features)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        specs = self.space.tensors
        pooled = [pool(spec, fold(spec, x), ()) for spec, x in zip(specs, features, strict=True)]
        return self.linear(torch.cat(pooled, -1))
