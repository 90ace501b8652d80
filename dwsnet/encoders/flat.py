"""MLPs on the flat parameter vector: plain, with permutation augmentation, on aligned weights."""

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
"""Features per entry: one is enough for what is linear in them, and the layer that computes them
grows with the number of entries."""


class FlatMLPEncoder(ReadingEncoder):
    """Two layers of `width` with batch norm, GELU between, on the flat vector of all entries.

    Maps stacked state dicts `{name: (batch, *spec.shape)}` to `(batch, width)`. Not invariant.
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
        """The encoding of standardised tensors with their neurons in this order."""
        tensors = tensors if order is None else permute(self.space, tensors, order)
        return self.layers(torch.cat([x.flatten(1) for x in tensors], 1))  # of (batch, parameters)

    def order(self, tensors: Sequence[Float[Tensor, "batch ..."]]) -> HiddenPermutation | None:
        """The order of each member's neurons for the MLP; None: as given."""
        return None


class AugmentedMLPEncoder(FlatMLPEncoder):
    """The flat MLP with permutation augmentation in training; in evaluation it is the flat MLP.

    Each member's order of neurons is drawn from torch's default generator of the device, like
    dropout.
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

    Invariant to hidden permutations (except for ties), because matching is. The reference is the
    first network given to `calibrate`, and part of the state dict. Matching runs on the CPU, takes
    about a millisecond per network of two hidden layers of 32, and breaks the graph under
    torch.compile.
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
                "the aligned MLP needs a reference network: call calibrate with state dicts of the "
                "train split first"
            )
        return match_weights(self.space, self.read(named), tensors)


class FlatFeatures(EncoderFeatures):
    """A linear layer from the vector to every entry, with neurons back in their original order."""

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
