"""INR2Vec's encoder: one MLP on all rows, then their maximum (De Luigi et al. 2023)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.encoders.rows import RowEncoder, row_shape, to_rows
from dwsnet.normalize import BatchNorm1d
from dwsnet.state import check_counts
from dwsnet.weight_space import WeightSpace


class INR2VecEncoder(RowEncoder):
    """Four layers with batch normalisation and ReLU on each row, then the maximum over rows.

    Widths are w, w, 2w, 2w for w = `row_width`, like 512, 512, 1024, 1024 in the original. The
    original leaves out the INR's first and last layer, whose rows have another width; here they are
    padded. Maps stacked state dicts to `(batch, 2 * row_width)`. Not invariant: the order of rows
    does not matter, but that of their entries, the neurons of the layer before, does. A row's token
    is its own vector concatenated with the maximum.
    """

    def __init__(self, space: WeightSpace, row_width: int, canonical_signs: bool = False):
        check_counts(row_width=row_width)
        super().__init__(space, 2 * row_width, canonical_signs)
        self.token_width = 2 * self.width
        modules, (_, inputs) = [], row_shape(space)
        for size_in, size_out in (
            (inputs, row_width),
            (row_width, row_width),
            (row_width, self.width),
        ):
            modules += [nn.Linear(size_in, size_out), BatchNorm1d(size_out), nn.ReLU()]
        self.layers = nn.Sequential(*modules, nn.Linear(self.width, self.width))

    def rows(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch rows {self.width}"]:
        rows = to_rows(self.space, self.read(state))  # (batch, rows, entries)
        return self.layers(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])

    def tokens(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch rows {self.token_width}"]:
        rows = self.rows(state)
        return torch.cat([rows, rows.amax(1, keepdim=True).expand_as(rows)], 2)

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch {self.width}"]:
        return self.rows(state).amax(1)
