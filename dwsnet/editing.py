"""A DWSNet that edits networks and can be saved and loaded."""

from typing import Any

import torch
from torch import Tensor

from dwsnet.classification import NO_SKIP, under
from dwsnet.encoders.dwsnet import DWSNetFeatures
from dwsnet.entries import EntryFeatures
from dwsnet.heads import WeightsHead
from dwsnet.models import DWSNet, ReadState
from dwsnet.pretrained import Pretrained
from dwsnet.weight_space import WeightSpace


class DWSNetEditor(Pretrained, WeightsHead):
    """`DWSNetFeatures` with a `WeightsHead`, which documents `expansion` and `init_scale`.

    Maps stacked state dicts `{name: (batch, *spec.shape)}` to state dicts, equivariantly. `trunk`
    holds further arguments of `DWSNet`.
    """

    earlier = NO_SKIP

    def __init__(
        self,
        space: WeightSpace,
        channels: int,
        num_layers: int,
        expansion: int = 1,
        init_scale: float = 1e-4,
        **trunk: Any,
    ):
        read = ReadState(space, canonical_signs=False)
        features = DWSNetFeatures(
            read, EntryFeatures(space), DWSNet(space, 1, channels, num_layers, **trunk)
        )
        super().__init__(features, expansion, init_scale)
        self.config = {
            "channels": channels,
            "num_layers": num_layers,
            "expansion": expansion,
            "init_scale": init_scale,
            **trunk,
            "skip": features.trunk.skip,
        }

    @property
    def read(self) -> ReadState:
        return self.features.read

    @classmethod
    def renamed(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the scales, all 1, which older folders lack."""
        state = under("features", ("read", "trunk"), state)
        count = sum(name.startswith("heads.") and name.endswith(".weight") for name in state)
        return {"scale": torch.ones(count)} | state
