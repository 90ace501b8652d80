"""A transformer over rows (Schuerholt et al. 2021)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dwsnet.encoders.rows import RowEncoder, row_shape, to_rows
from dwsnet.state import check_counts
from dwsnet.weight_space import WeightSpace

NUM_LAYERS, NUM_HEADS = 4, 4


class TransformerEncoder(RowEncoder):
    """Four pre-norm layers with four heads on rows, with learned positions, and a class token.

    Maps stacked state dicts to the class token `(batch, 4 * head_dim)`. `feedforward` is the width
    of the feedforward layers; None: twice the tokens' width. Not invariant: positions and the order
    of entries distinguish rows.
    """

    def __init__(
        self,
        space: WeightSpace,
        head_dim: int,
        feedforward: int | None = None,
        canonical_signs: bool = False,
    ):
        check_counts(head_dim=head_dim)
        super().__init__(space, NUM_HEADS * head_dim, canonical_signs)
        self.token_width = self.width
        feedforward = 2 * self.width if feedforward is None else feedforward
        check_counts(feedforward=feedforward)
        num_rows, inputs = row_shape(space)
        self.embed = nn.Linear(inputs, self.width)
        self.position = nn.Parameter(0.02 * torch.randn(num_rows, self.width))
        self.token = nn.Parameter(0.02 * torch.randn(self.width))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    self.width,
                    NUM_HEADS,
                    feedforward,
                    dropout=0.0,
                    activation="gelu",
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(NUM_LAYERS)
            )
        )
        self.norm = nn.LayerNorm(self.width)

    def all_tokens(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch tokens {self.width}"]:
        """The class token, then one token per row."""
        rows = to_rows(self.space, self.read(state))
        token = self.token.expand(rows.shape[0], 1, -1)  # (batch, 1, width)
        tokens = torch.cat([token, self.embed(rows) + self.position], 1)
        with sdpa_kernel(SDPBackend.MATH):  # fused kernels have only a first derivative
            return self.norm(self.blocks(tokens))

    def tokens(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch rows {self.token_width}"]:
        return self.all_tokens(state)[:, 1:]

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch {self.width}"]:
        return self.all_tokens(state)[:, 0]
