"""An MLP on seven statistics of each tensor: cheap, and hard to beat on classifiers.

Unterthiner et al. (2020).
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dwsnet.encoders.encoder import ReadingEncoder
from dwsnet.encoders.flat import two_layers
from dwsnet.weight_space import WeightSpace

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
NUM_STATISTICS = 2 + len(QUANTILES)


def tensor_statistics(
    tensors: Sequence[Float[Tensor, "batch ..."]],
) -> Float[Tensor, "batch statistics"]:
    """Mean, variance and five quantiles of each tensor, `(batch, 7 * tensors)`.

    Quantiles are interpolated linearly.
    """
    columns = []
    for tensor in tensors:
        entries = tensor.flatten(1)  # (batch, entries)
        places = (entries.shape[1] - 1) * torch.tensor(QUANTILES, dtype=torch.float64)
        low = places.floor().long()
        between = (places - low).to(entries)
        ordered = entries.sort(1).values
        quantiles = ordered[:, low].lerp(ordered[:, places.ceil().long()], between)  # (batch, 5)
        moments = torch.stack([entries.mean(1), entries.var(1, correction=0)], 1)  # (batch, 2)
        columns += [moments, quantiles]
    return torch.cat(columns, 1)


class StatisticsEncoder(ReadingEncoder):
    """StatNN: two layers of `width` on `tensor_statistics`.

    Statistics are standardised over the networks given to `calibrate`. Maps stacked state dicts to
    `(batch, width)`. Invariant to hidden permutations; there are no features of entries.
    """

    def __init__(self, space: WeightSpace, width: int, canonical_signs: bool = False):
        super().__init__(space, width, canonical_signs)
        count = NUM_STATISTICS * len(space.tensors)
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("std", torch.ones(count))
        self.layers = two_layers(count, width)

    def calibrate(
        self, statistics: Mapping[str, Mapping[str, float]], state: Mapping[str, Tensor]
    ) -> "StatisticsEncoder":
        super().calibrate(statistics, state)
        found = tensor_statistics(self.read(state))
        std = found.std(0, correction=0)
        self.mean.copy_(found.mean(0))
        self.std.copy_(torch.where(std > 0, std, 1))
        return self

    def statistics(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch statistics"]:
        """Standardised statistics of stacked state dicts."""
        return (tensor_statistics(self.read(state)) - self.mean) / self.std

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch width"]:
        return self.layers(self.statistics(state))
