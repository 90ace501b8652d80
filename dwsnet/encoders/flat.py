"""MLPs on the flat parameter vector: one that knows nothing of the symmetry, one that learns it, one that undoes it."""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.align import match_weights
from dwsnet.derivatives import is_transformed
from dwsnet.encoders.encoder import EncoderFeatures, ReadingEncoder
from dwsnet.normalize import BatchNorm1d
from dwsnet.state import read_state
from dwsnet.symmetry import HiddenPermutation, permute
from dwsnet.weight_space import WeightSpace

CHANNELS = 1
"""Of features: whatever is linear in the features of one entry is a multiple of one number then, and the layer that gives
them grows with the number of entries."""


class FlatMLPEncoder(ReadingEncoder):
    """Two layers of `width` on all entries in one row, with batch normalisation, GELU between.

    Takes stacked state dicts `{name: (batch, *spec.shape)}`, returns `(batch, width)`. Not invariant.
    """

    def __init__(self, space: WeightSpace, width: int, canonical_signs: bool = False):
        super().__init__(space, width, canonical_signs)
        self.layers = two_layers(space.num_parameters, width)

    def features(self) -> nn.Module:
        return FlatFeatures(self)

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch width"]:
        tensors = self.read(state)
        return self.in_order(tensors, self.order(tensors))

    def in_order(
        self,
        tensors: Sequence[Float[Tensor, "batch ..."]],
        order: HiddenPermutation | None,
    ) -> Float[Tensor, "batch width"]:
        """The vector of standardised tensors, their neurons in this order."""
        tensors = tensors if order is None else permute(self.space, tensors, order)
        return self.layers(torch.cat([x.flatten(1) for x in tensors], 1))

    def order(self, tensors: Sequence[Float[Tensor, "batch ..."]]) -> HiddenPermutation | None:
        """The order of each member's neurons in which the MLP sees them; None: as they come."""
        return None


class AugmentedMLPEncoder(FlatMLPEncoder):
    """The flat MLP with permutation augmentation: in training, each member's hidden neurons come in a random order.

    The order is drawn from torch's default generator of the device, as dropout is. In evaluation it is the flat MLP.
    """

    def order(self, tensors: Sequence[Float[Tensor, "batch ..."]]) -> HiddenPermutation | None:
        if not self.training:
            return None
        batch, device = tensors[0].shape[0], tensors[0].device
        return {
            name: torch.rand(batch, size, device=device).argsort(1)
            for name, size in self.space.hidden.items()
        }


class AlignedMLPEncoder(FlatMLPEncoder):
    """The flat MLP on networks aligned to one reference network by weight matching (Git Re-Basin).

    Invariant to hidden permutations (but for ties), since matching is. The reference is the first network that
    `calibrate` is given, and part of the state dict. The matching runs on the CPU, about a millisecond a network of two
    hidden layers of 32, and breaks the graph under torch.compile.
    """

    def __init__(self, space: WeightSpace, width: int, canonical_signs: bool = False):
        super().__init__(space, width, canonical_signs)
        for i, spec in enumerate(space.tensors):
            self.register_buffer(f"reference{i}", torch.full((1, *spec.shape), torch.nan))

    def calibrate(
        self, statistics: Mapping[str, Mapping[str, float]], state: Mapping[str, Tensor]
    ) -> "AlignedMLPEncoder":
        for i, tensor in enumerate(read_state(self.space, state)):
            self.get_buffer(f"reference{i}").copy_(tensor[:1])
        super().calibrate(statistics, state)
        return self

    def order(self, tensors: Sequence[Float[Tensor, "batch ..."]]) -> HiddenPermutation:
        named = {
            spec.name: self.get_buffer(f"reference{i}") for i, spec in enumerate(self.space.tensors)
        }
        if not is_transformed() and any(x.isnan().any() for x in named.values()):
            raise ValueError(
                "the aligned MLP needs a reference network: call calibrate with state dicts of the train split first"
            )
        return match_weights(self.space, self.read(named), tensors)


class FlatFeatures(EncoderFeatures):
    """A linear layer from the vector to every entry, whose neurons are put back in the order in which they came."""

    def __init__(self, encoder: FlatMLPEncoder):
        super().__init__(encoder, CHANNELS)
        self.expand = nn.Linear(encoder.width, encoder.space.num_parameters * CHANNELS)

    def forward(
        self, state: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "batch ... channels"], ...]:
        tensors = self.read(state)
        order = self.encoder.order(tensors)
        entries = self.expand(F.gelu(self.encoder.in_order(tensors, order)))
        entries = entries.unflatten(1, (-1, self.channels))  # (batch, parameters, channels)
        parts = entries.split([prod(spec.shape) for spec in self.space.tensors], 1)
        features = tuple(
            x.unflatten(1, spec.shape) for x, spec in zip(parts, self.space.tensors, strict=True)
        )
        if order is None:
            return features
        return permute(
            self.space, features, {name: index.argsort(1) for name, index in order.items()}
        )


def two_layers(inputs: int, width: int) -> nn.Sequential:
    """Normalised linear layers of `width` with GELU between, none after the second."""
    return nn.Sequential(
        nn.Linear(inputs, width),
        BatchNorm1d(width),
        nn.GELU(),
        nn.Linear(width, width),
        BatchNorm1d(width),
    )
