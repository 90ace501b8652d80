"""The official scheme, reimplemented: a small module for each ordered pair of tensors.

Each module pools its input separately, maps it, and writes its output at full size; the
contributions are then summed (Navon et al. 2023). Set layers `ds` (deep sets) and `sab` (set
attention, 8 heads) on shared hidden axes, and four maps for a weight between two hidden layers.
Only a reference for speed and memory.
"""

import torch
from torch import Tensor, nn

from dwsnet.incidence import Folding, axis_order
from dwsnet.weight_space import WeightSpace


class DeepSets(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.each, self.all = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.each(x) - self.all(x.mean(1, keepdim=True))


class SetAttention(nn.Module):
    def __init__(self, inputs: int, outputs: int, num_heads: int = 8):
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(n, outputs) for n in (inputs, inputs, inputs, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return torch.cat(y.split(y.shape[-1] // self.num_heads, 2), 0)

        query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        scores = torch.softmax(query.bmm(key.transpose(1, 2)) / self.out.in_features**0.5, 2)
        attended = torch.cat((query + scores.bmm(value)).split(len(x), 0), 2)
        return attended + self.out(attended).relu()


class Exchangeable(nn.Module):
    """From a matrix between two hidden layers to itself: each entry, rows, columns, all."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.each, self.rows, self.columns, self.all = (
            nn.Linear(inputs, outputs) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.mean(2, keepdim=True), x.mean(1, keepdim=True)
        return (
            self.each(x)
            + self.rows(rows)
            + self.columns(columns)
            + self.all(x.mean((1, 2), keepdim=True))
        ) / 4


class Pair(nn.Module):
    """From one tensor to another: pool axes that are not shared, map, repeat along the others."""

    def __init__(
        self,
        source: Folding,
        target: Folding,
        inputs: int,
        outputs: int,
        set_layer: type[nn.Module],
        sizes: dict,
    ):
        super().__init__()
        self.source, self.target, self.sizes = source.axes, target.axes, sizes
        self.shared = [name for name in target.axes if name in source.axes]
        kinds = {0: nn.Linear, 1: set_layer, 2: Exchangeable}
        self.map = kinds[len(self.shared)](inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        away = [dim for dim, name in enumerate(self.source, start=1) if name not in self.shared]
        y = self.map(x.mean(away) if away else x)
        for dim, name in enumerate(self.target, start=1):
            if name not in self.shared:
                y = y.unsqueeze(dim).repeat_interleave(self.sizes[name], dim)
        return y


class PairwiseLayer(nn.Module):
    """One layer of (tensors)^2 modules: features `(batch, *spec.shape, channels)` in and out."""

    def __init__(
        self, space: WeightSpace, in_channels: int, out_channels: int, set_layer: type[nn.Module]
    ):
        super().__init__()
        self.foldings = [Folding(spec, axis_order(space)) for spec in space.tensors]
        widths = [spec.num_fixed for spec in space.tensors]
        self.pairs = nn.ModuleList(
            nn.ModuleList(
                Pair(
                    source,
                    target,
                    inputs * in_channels,
                    outputs * out_channels,
                    set_layer,
                    space.hidden,
                )
                for source, inputs in zip(self.foldings, widths, strict=True)
            )
            for target, outputs in zip(self.foldings, widths, strict=True)
        )

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        folded = [folding.fold(x) for folding, x in zip(self.foldings, features, strict=True)]
        sums = [
            sum(pair(x) for pair, x in zip(row, folded, strict=True)) / len(folded)
            for row in self.pairs
        ]
        return tuple(folding.unfold(y) for folding, y in zip(self.foldings, sums, strict=True))
