"""Ways to pool features over hidden axes; each gives the same for every order of the neurons."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.incidence import Incidence, Move, Reduce, largest, mean, total


class AttentionPooling(nn.Module):
    """A weighted mean: softmax over the axis of a learned score of each neuron's features. Starts as the mean."""

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
    """The pooling "mean", "sum", "max" or "attention", the last with parameters of its own."""
    match name:
        case "mean":
            return mean
        case "sum":
            return total
        case "max":
            return largest
        case "attention":
            return AttentionPooling(incidence, channels)
    raise ValueError(f"pooling must be 'mean', 'sum', 'max' or 'attention', got {name!r}")
