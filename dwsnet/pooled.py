"""The incidence rule of the equivariant layer with mean, sum or max pooling: what official layers are read into.

Pick a set S of hidden axes; the tensors that carry all of S are pooled over their other hidden axes, one matrix takes
them to each other, and the result is repeated along the axes that were pooled away. Only with the mean, or the sum, is
this linear.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.weight_space import TensorSpec, WeightSpace

POOLINGS = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax}


class Layout:
    """One tensor's features with one dimension for each hidden axis of the space, 1 long for those it does not carry.

    So pooling keeps the dimension, and repeating along an axis that was pooled away is broadcasting.
    """

    def __init__(self, space: WeightSpace, spec: TensorSpec):
        names = [axis.name for axis in spec.axes]
        hidden = [names.index(name) + 1 for name in space.hidden if name in spec.hidden]
        fixed = [dim for dim, axis in enumerate(spec.axes, start=1) if not axis.hidden]
        self.spec, self.num_hidden = spec, len(hidden)
        self.order = [0, *hidden, *fixed, len(names) + 1]
        self.sizes = [size if name in spec.hidden else 1 for name, size in space.hidden.items()]

    def fold(self, features: Tensor) -> Tensor:
        """`(batch, *spec.shape, channels)` to `(batch, *sizes, fixed entries * channels)`."""
        return features.permute(self.order).flatten(self.num_hidden + 1).view(len(features), *self.sizes, -1)

    def unfold(self, folded: Tensor) -> Tensor:
        """The inverse of `fold`."""
        sizes = [self.spec.shape[dim - 1] for dim in self.order[1:-1]]
        inverse = [self.order.index(dim) for dim in range(len(self.order))]
        return folded.reshape(len(folded), *sizes, -1).permute(inverse)

    def pool(self, pooling: str, folded: Tensor, kept: Sequence[int]) -> Tensor:
        """Pooled over all hidden axes but those at the places `kept` of the space."""
        away = [place + 1 for place, size in enumerate(self.sizes) if size > 1 and place not in kept]
        return POOLINGS[pooling](folded, dim=away, keepdim=True) if away else folded


class PooledLayer(nn.Module):
    """One matrix for each axis set, zero at first. Takes and returns `(batch, *spec.shape, channels)` for each tensor.

    It has room for every block of the official layer, untied: what that ties (B1, B2) or leaves out (`diagonal`) is read
    as repeated rows or zeros, and training may change it.
    """

    def __init__(self, space: WeightSpace, in_channels: int, out_channels: int, pooling: str, dtype: torch.dtype):
        super().__init__()
        self.space, self.in_channels, self.out_channels, self.pooling = space, in_channels, out_channels, pooling
        self.layouts = [Layout(space, spec) for spec in space.tensors]
        owned = [[place for place, name in enumerate(space.hidden) if name in spec.hidden] for spec in space.tensors]
        subsets = (axes for places in owned for size in range(len(places) + 1) for axes in combinations(places, size))
        self.axis_sets = list(dict.fromkeys(subsets))
        self.carriers = [[i for i, places in enumerate(owned) if set(axes) <= set(places)] for axes in self.axis_sets]
        fixed = [sum(space.tensors[i].num_fixed for i in members) for members in self.carriers]
        self.weights = nn.ParameterList(torch.zeros(size * out_channels, size * in_channels, dtype=dtype) for size in fixed)
        self.biases = nn.ParameterList(torch.zeros(spec.num_fixed * out_channels, dtype=dtype) for spec in space.tensors)

    def block(self, axes: Sequence[str], target: int, source: int) -> Tensor:
        """A view into the weights: what takes the source pooled to `axes` to the target."""
        place = self.axis_sets.index(tuple(i for i, name in enumerate(self.space.hidden) if name in axes))
        fixed = {i: self.space.tensors[i].num_fixed for i in self.carriers[place]}
        before = {i: sum(size for j, size in fixed.items() if j < i) for i in fixed}
        rows = self.weights[place].data.narrow(0, before[target] * self.out_channels, fixed[target] * self.out_channels)
        return rows.narrow(1, before[source] * self.in_channels, fixed[source] * self.in_channels)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        folded = [layout.fold(x) for layout, x in zip(self.layouts, features, strict=True)]
        outputs: list[Tensor] = list(self.biases)
        for axes, members, weight in zip(self.axis_sets, self.carriers, self.weights, strict=True):
            pooled = torch.cat([self.layouts[i].pool(self.pooling, folded[i], axes) for i in members], -1)
            rows = [self.space.tensors[i].num_fixed * self.out_channels for i in members]
            for i, part in zip(members, F.linear(pooled, weight).split(rows, -1), strict=True):
                outputs[i] = outputs[i] + part
        return tuple(layout.unfold(y) for layout, y in zip(self.layouts, outputs, strict=True))

    def pool(self, features: Sequence[Tensor]) -> Tensor:
        """`(batch, fixed entries of all tensors * channels)`: features pooled over all hidden axes, side by side."""
        pooled = [layout.pool(self.pooling, layout.fold(x), ()) for layout, x in zip(self.layouts, features, strict=True)]
        return torch.cat([x.flatten(1) for x in pooled], 1)
