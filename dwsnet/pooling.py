"""Poolings of features over hidden axes, independent of the order of neurons.

A sum is computed as a mean whose weight is multiplied by the number of neurons, so that features
stay at the scale of one neuron's, also in half precision.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.incidence import Incidence, Move, Reduce, largest, mean


class AttentionPooling(nn.Module):
    """A mean weighted by a softmax of learned scores of neurons; starts as the mean."""

    def __init__(self, incidence: Incidence, channels: int):
        super().__init__()
        moves = [move for some in incidence.moves for move in some]
        self.scores = nn.ParameterDict(
            {self.key(move): torch.zeros(move.width * channels) for move in moves}
        )

    @staticmethod
    def key(move: Move) -> str:
        return f"{move.large}_{move.start_large}_to_{move.small}"

    def forward(
        self, features: Float[Tensor, "batch ... columns"], moves: Sequence[Move], channels: int
    ) -> list[Float[Tensor, "batch ... _"]]:
        return [self._pool(move.columns(features, channels), move) for move in moves]

    def _pool(self, x: Tensor, move: Move) -> Tensor:
        score = x @ self.scores[self.key(move)].to(x.dtype)
        return (x * score.softmax(move.dim).unsqueeze(-1)).sum(move.dim)


def pooling_of(name: str, incidence: Incidence, channels: int) -> Reduce:
    """The pooling of this name; "sum" pools means, "attention" has parameters."""
    match name:
        case "mean" | "sum":
            return mean
        case "max":
            return largest
        case "attention":
            return AttentionPooling(incidence, channels)
    raise ValueError(f"pooling must be 'mean', 'sum', 'max' or 'attention', got {name!r}")


def from_means(
    weight: Tensor, incidence: Incidence, channels: int, s: int, power: int = 1
) -> Tensor:
    """The matrix that acts on means of axis set `s` as `weight` does on sums; inverse for power -1.

    Columns after those of the set are unchanged.
    """
    widths, counts = incidence.widths(s, channels), incidence.counts(s)
    parts = weight.split([*widths, weight.shape[1] - sum(widths)], 1)
    return torch.cat([part * n**power for part, n in zip(parts, [*counts, 1], strict=True)], 1)


class PooledLinear(nn.Linear):
    """A linear map of the pooled features of axis set `s`; for "sum" it takes means."""

    def __init__(
        self, incidence: Incidence, channels: int, s: int, out_features: int, pooling: str
    ):
        self.of = (incidence, channels, s) if pooling == "sum" else None
        super().__init__(sum(incidence.widths(s, channels)), out_features)

    def reset_parameters(self):
        """Initialise like `nn.Linear`, with respect to means even if sums are pooled."""
        super().reset_parameters()
        if self.of:
            with torch.no_grad():
                self.weight.copy_(from_means(self.weight, *self.of, power=-1))

    def forward(self, pooled: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch outputs"]:
        weight = from_means(self.weight, *self.of) if self.of else self.weight
        return F.linear(pooled, weight, self.bias)
