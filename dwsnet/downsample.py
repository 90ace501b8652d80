"""A layer for networks with wide inputs, such as 784 or 3072 pixels.

The exact layer's parameters grow with the square of the input's width: 1.3 M for a pair of channels
over 784-128-128-10. As in the official DownSampleDWSLayer, the wide fixed axis is first mapped to a
narrow one, from each neuron and the mean over neurons; the exact layer is applied there, and its
output is mapped back up, with a skip connection.
"""

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.linear import EquivariantLinear
from dwsnet.state import check_counts, check_features
from dwsnet.weight_space import WeightSpace


def narrowed(space: WeightSpace, axis: str, size: int) -> WeightSpace:
    """The same space with another size of one fixed axis."""
    names = {one.name for spec in space.tensors for one in spec.axes if not one.hidden}
    if axis not in names:
        raise ValueError(f"axis must be one of the fixed axes {sorted(names)}, got {axis!r}")
    specs = (
        replace(
            spec,
            axes=tuple(replace(one, size=size) if one.name == axis else one for one in spec.axes),
        )
        for spec in space.tensors
    )
    return WeightSpace(tuple(specs))


class FixedAxisMap(nn.Module):
    """A linear map along a fixed axis of a tensor's features.

    Maps each entry, and the mean over the hidden axes.
    """

    def __init__(self, dim: int, others: tuple[int, ...], in_size: int, out_size: int):
        super().__init__()
        self.dim, self.others = dim, others
        self.entry = nn.Linear(in_size, out_size)
        self.mean = nn.Linear(in_size, out_size, bias=False) if others else None
        self.reset_parameters()

    def reset_parameters(self):
        """Keep features at unit scale, to which entries and means contribute equally."""
        maps = [self.entry, self.mean] if self.mean else [self.entry]
        for one in maps:
            nn.init.normal_(one.weight, std=(len(maps) * one.in_features) ** -0.5)
        nn.init.zeros_(self.entry.bias)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        mapped = self.entry(x.movedim(self.dim, -1))  # (batch, ..., channels, size)
        if self.mean is not None:
            mapped = mapped + self.mean(x.mean(self.others, keepdim=True).movedim(self.dim, -1))
        return mapped.movedim(-1, self.dim)


class DownsampledLinear(nn.Module):
    """`EquivariantLinear` through a narrower fixed axis.

    Takes and returns `(batch, *spec.shape, channels)`, equivariantly. `axis` names the wide axis
    ("layer0" is an MLP's input), `size` is its size inside.
    """

    def __init__(
        self, space: WeightSpace, axis: str, size: int, in_channels: int, out_channels: int
    ):
        super().__init__()
        check_counts(size=size)
        self.space, self.in_channels, self.out_channels = space, in_channels, out_channels
        inner = narrowed(space, axis, size)
        self.layer = EquivariantLinear(inner, in_channels, out_channels)
        self.down, self.up, self.skip = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for i, spec in enumerate(space.tensors):
            for dim, one in enumerate(spec.axes, start=1):
                if one.name == axis:
                    others = tuple(d for d, other in enumerate(spec.axes, start=1) if other.hidden)
                    self.down[str(i)] = FixedAxisMap(dim, others, one.size, size)
                    self.up[str(i)] = FixedAxisMap(dim, others, size, one.size)
                    self.skip[str(i)] = nn.Linear(in_channels, out_channels)

    def forward(
        self, features: Sequence[Float[Tensor, "batch ... {self.in_channels}"]]
    ) -> tuple[Float[Tensor, "batch ... {self.out_channels}"], ...]:
        check_features(self.space, features, self.in_channels, self.layer.weights[0])
        inner = [self.down[str(i)](x) if str(i) in self.down else x for i, x in enumerate(features)]
        outer = enumerate(zip(features, self.layer(inner), strict=True))
        return tuple(
            self.up[str(i)](y) + self.skip[str(i)](x) if str(i) in self.up else y
            for i, (x, y) in outer
        )
