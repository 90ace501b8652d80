"""A network as a sequence of rows, one per neuron, and features of its entries from those of rows.

A row has all parameters that compute one neuron, its incoming weights and its bias (for a
convolution, the channel's kernel), zero-padded to the widest row.
"""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.encoders.encoder import EncoderFeatures, ReadingEncoder
from dwsnet.state import check_tensors
from dwsnet.weight_space import WeightSpace

CHANNELS = 4
"""Features per entry."""


def row_shape(space: WeightSpace) -> tuple[int, int]:
    """Number of rows and their width."""
    layers, sizes = _layers(space), _sizes(space)
    widths = {
        axis: sum(prod(space.tensors[i].shape) for i in members) // sizes[axis]
        for axis, members in layers.items()
    }
    return sum(sizes[axis] for axis in layers), max(widths.values())


def to_rows(
    space: WeightSpace, tensors: Sequence[Float[Tensor, "batch ..."]]
) -> Float[Tensor, "batch rows width"]:
    """The rows of tensors `(batch, *spec.shape)`, layer by layer."""
    check_tensors(space, tensors, ())
    _, width = row_shape(space)
    rows = []
    for members in _layers(space).values():
        parts = []
        for i in members:
            x = tensors[i].movedim(1 + space.tensors[i].computed, 1)
            parts.append(x.flatten(2) if x.ndim > 2 else x.unsqueeze(2))  # (batch, size, entries)
        row = torch.cat(parts, 2)
        rows.append(F.pad(row, (0, width - row.shape[2])))
    return torch.cat(rows, 1)


def from_rows(
    space: WeightSpace, rows: Float[Tensor, "batch rows width channels"]
) -> tuple[Float[Tensor, "batch ... channels"], ...]:
    """The inverse of `to_rows` on features: `(batch, *spec.shape, channels)` per tensor."""
    sizes, found, first = _sizes(space), {}, 0
    for axis, members in _layers(space).items():
        layer, start = rows[:, first : first + sizes[axis]], 0
        first += sizes[axis]
        for i in members:
            spec = space.tensors[i]
            out = spec.computed
            others = (*spec.shape[:out], *spec.shape[out + 1 :])
            part = layer[:, :, start : start + prod(others)]
            start += prod(others)
            found[i] = part.unflatten(2, others or (1,)) if others else part.squeeze(2)
            found[i] = found[i].movedim(1, 1 + out)  # (batch, *spec.shape, channels)
    return tuple(found[i] for i in range(len(space.tensors)))


def _sizes(space: WeightSpace) -> dict[str, int]:
    return {axis.name: axis.size for spec in space.tensors for axis in spec.axes}


def _layers(space: WeightSpace) -> dict[str, list[int]]:
    """For each axis, the indices of the tensors that compute it.

    Raises ValueError for a tensor that computes none.
    """
    layers: dict[str, list[int]] = {}
    for i, spec in enumerate(space.tensors):
        if "out" not in (spec.roles or ()):
            raise ValueError(
                f"tensor {spec.name!r} must compute one of its axes "
                f"{[axis.name for axis in spec.axes]} to be read as rows, for example with "
                f"roles=('out', 'in'), found roles {spec.roles}"
            )
        layers.setdefault(spec.axes[spec.computed].name, []).append(i)
    return layers


class RowEncoder(ReadingEncoder):
    """An encoder whose `tokens` returns a vector of `token_width` for each row."""

    token_width: int

    def tokens(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch rows {self.token_width}"]:
        raise NotImplementedError

    def features(self) -> nn.Module:
        return RowFeatures(self)


class RowFeatures(EncoderFeatures):
    """A linear layer from each row's token to the row's entries."""

    def __init__(self, encoder: RowEncoder):
        super().__init__(encoder, CHANNELS)
        _, width = row_shape(encoder.space)
        self.expand = nn.Linear(encoder.token_width, width * CHANNELS)

    def forward(
        self, state: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "batch ... channels"], ...]:
        rows = self.expand(F.gelu(self.encoder.tokens(state)))
        return from_rows(self.space, rows.unflatten(2, (-1, self.channels)))
