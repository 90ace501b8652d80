"""The DWSNet as an encoder: standardise, equivariant trunk, invariant layer."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dwsnet import normalised
from dwsnet.derivatives import hooked_inside
from dwsnet.encoders.encoder import ReadingEncoder
from dwsnet.entries import EntryFeatures
from dwsnet.incidence import mean
from dwsnet.linear import InvariantLinear
from dwsnet.models import DWSNet, ReadState
from dwsnet.weight_space import WeightSpace


class DWSNetEncoder(ReadingEncoder):
    """Equivariant layers over the weight space, pooled by the invariant layer (Navon et al. 2023).

    Maps stacked state dicts `{name: (batch, *spec.shape)}` to `(batch, width)`, invariant to hidden
    permutations. The trunk's input are `EntryFeatures` with `num_frequencies` and `positions`;
    `trunk` holds further arguments of `DWSNet`.
    """

    def __init__(
        self,
        space: WeightSpace,
        width: int,
        channels: int,
        num_layers: int,
        canonical_signs: bool = False,
        num_frequencies: int = 0,
        positions: int = 0,
        **trunk: Any,
    ):
        super().__init__(space, width, canonical_signs)
        self.entries = EntryFeatures(space, num_frequencies, positions)
        inner = self.entries.space
        self.trunk = DWSNet(inner, self.entries.channels, channels, num_layers, **trunk)
        self.invariant = InvariantLinear(inner, channels, width, trunk.get("pooling", "mean"))

    def features(self) -> nn.Module:
        return DWSNetFeatures(self.read, self.entries, self.trunk)

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch width"]:
        features = self.entries(self.read(state))
        simple = self.invariant.pool is mean and not hooked_inside(self)
        if simple and normalised.takes(self.trunk, features):
            return self.invariant.linear(normalised.pooled(self.trunk, features))
        return self.invariant(self.trunk(features))


class DWSNetFeatures(nn.Module):
    """Equivariant features of every entry."""

    def __init__(self, read: ReadState, entries: EntryFeatures, trunk: DWSNet):
        super().__init__()
        self.space, self.channels = read.space, trunk.channels
        self.read, self.entries, self.trunk = read, entries, trunk

    def forward(
        self, state: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "batch ... channels"], ...]:
        return self.trunk(self.entries(self.read(state)))
