"""A DWSNet classifier or regressor of networks that can be saved and loaded."""

from typing import Any

from torch import Tensor

from dwsnet.encoders.dwsnet import DWSNetEncoder
from dwsnet.heads import ValuesHead
from dwsnet.models import ReadState
from dwsnet.pretrained import Pretrained
from dwsnet.state import check_counts
from dwsnet.weight_space import WeightSpace

NO_SKIP = {"skip": False}
"""The default before it depended on depth."""


class DWSNetClassifier(Pretrained, ValuesHead):
    """A `DWSNetEncoder` of width `head_width` with a `ValuesHead`: classes, values or embeddings.

    Maps stacked state dicts `{name: (batch, *spec.shape)}` to `(batch, num_classes)` logits or
    values, invariant to hidden permutations. `trunk` holds further arguments of `DWSNet`.
    """

    earlier = NO_SKIP

    def __init__(
        self,
        space: WeightSpace,
        num_classes: int,
        channels: int,
        num_layers: int,
        head_width: int,
        dropout: float = 0.0,
        canonical_signs: bool = False,
        **trunk: Any,
    ):
        check_counts(num_classes=num_classes, head_width=head_width)
        encoder = DWSNetEncoder(space, head_width, channels, num_layers, canonical_signs, **trunk)
        super().__init__(encoder, num_classes, dropout)
        self.space = space
        self.config = {
            "num_classes": num_classes,
            "channels": channels,
            "num_layers": num_layers,
            "head_width": head_width,
            "dropout": dropout,
            "canonical_signs": canonical_signs,
            **trunk,
            "skip": encoder.trunk.skip,
        }

    @property
    def read(self) -> ReadState:
        return self.encoder.read

    @classmethod
    def renamed(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return under("encoder", ("read", "trunk", "invariant"), state)


def under(parent: str, children: tuple[str, ...], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of modules that have moved from the model into its child `parent`."""
    return {
        f"{parent}.{name}" if name.partition(".")[0] in children else name: tensor
        for name, tensor in state.items()
    }
