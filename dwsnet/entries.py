"""Features of an entry: its value, sines and cosines of it, and its position on fixed axes."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.state import check_tensors
from dwsnet.tensor_spec import TensorSpec
from dwsnet.weight_space import WeightSpace

FREQUENCY = 1.5
"""Initial standard deviation of the frequencies, for entries of unit scale."""


def with_hidden_axes(space: WeightSpace) -> WeightSpace:
    """The same tensors with all axes hidden: layers share parameters along fixed axes too."""
    return WeightSpace(
        tuple(
            replace(spec, axes=tuple(replace(axis, hidden=True) for axis in spec.axes))
            for spec in space.tensors
        )
    )


class EntryFeatures(nn.Module):
    """Maps standardised tensors `(batch, *spec.shape)` to `(batch, *spec.shape, channels)`.

    The channels are the entry, its sines and cosines at `num_frequencies` learned frequencies
    (Fourier features, Tancik et al. 2020), and a learned embedding of size `positions` for each
    index of a fixed axis, such as a pixel or a class.

    `space` is the trunk's space. With `positions` all its axes are hidden: the trunk then shares
    its parameters along inputs and outputs, which the embeddings distinguish (NFN_NP with the input
    and output encoding of Zhou et al. 2023). It is as small for 784 inputs as for two, while the
    exact layer grows with the square of their number.
    """

    def __init__(self, space: WeightSpace, num_frequencies: int = 0, positions: int = 0):
        super().__init__()
        self.outer, self.space = space, with_hidden_axes(space) if positions else space
        self.positions, self.channels = positions, 1 + 2 * num_frequencies + positions
        self.frequencies = (
            nn.Parameter(FREQUENCY * torch.randn(num_frequencies)) if num_frequencies else None
        )
        self.places = nn.ParameterDict(
            {
                f"{i}_{dim}": torch.randn(axis.size, positions)
                for i, spec in enumerate(space.tensors)
                for dim, axis in enumerate(spec.axes)
                if positions and not axis.hidden
            }
        )

    def forward(
        self, tensors: Sequence[Float[Tensor, "batch ..."]]
    ) -> tuple[Float[Tensor, "batch ... {self.channels}"], ...]:
        check_tensors(self.outer, tensors)
        features = []
        for i, (spec, x) in enumerate(zip(self.outer.tensors, tensors, strict=True)):
            parts = [x.unsqueeze(-1)]  # (batch, *spec.shape, 1)
            if self.frequencies is not None:
                phase = parts[0] * self.frequencies
                parts += [phase.sin(), phase.cos()]
            if self.positions:
                parts.append(self._places(i, spec).to(x.dtype).expand(*x.shape, -1))
            features.append(torch.cat(parts, -1) if len(parts) > 1 else parts[0])
        return tuple(features)

    def _places(self, i: int, spec: TensorSpec) -> Tensor:
        """Sum of the embeddings over a tensor's fixed axes, `(*spec.shape, positions)`.

        It has size 1 along hidden axes.
        """
        total = next(self.parameters()).new_zeros(*(1 for _ in spec.axes), self.positions)
        for dim, axis in enumerate(spec.axes):
            if not axis.hidden:
                shape = [1] * len(spec.axes)
                shape[dim] = axis.size
                total = total + self.places[f"{i}_{dim}"].view(*shape, self.positions)
        return total
