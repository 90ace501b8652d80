"""Heads: what an encoder's output becomes."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.encoders.encoder import Encoder
from dwsnet.state import check_counts


class ValuesHead(nn.Module):
    """An encoder with `num_values` numbers a network: logits, properties, an embedding.

    Takes stacked state dicts, returns `(batch, num_values)`.
    """

    def __init__(self, encoder: Encoder, num_values: int, dropout: float = 0.0):
        super().__init__()
        check_counts(num_values=num_values)
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.GELU(), nn.Dropout(dropout), nn.Linear(encoder.width, num_values)
        )

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch values"]:
        return self.head(self.encoder(state))
