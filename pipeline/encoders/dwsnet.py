"""The DWSNet, as configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from pipeline.encoders.encoder import ReadingConfig

if TYPE_CHECKING:
    from dwsnet.encoders import DWSNetEncoder
    from dwsnet.weight_space import WeightSpace


class DWSNetConfig(ReadingConfig):
    title: ClassVar[str] = "DWSNet"
    sizes: ClassVar[tuple[str, ...]] = ("channels",)

    kind: Literal["dwsnet"] = "dwsnet"
    """Equivariant layers over the weight space (Navon et al. 2023)."""
    channels: PositiveInt = 32
    """Feature channels of each equivariant layer."""
    num_layers: PositiveInt = 4
    """Equivariant layers."""
    num_heads: int = Field(0, ge=0)
    """Heads of attention among the neurons of each hidden layer, in every equivariant layer; 0: affine layers alone."""
    pooling: Literal["mean", "sum", "max", "attention"] = "mean"
    """How equivariant layers pool over neurons."""
    skip: bool | None = None
    """Add each equivariant layer's input to its output; null: from six layers on."""
    num_frequencies: int = Field(0, ge=0)
    """Learned frequencies: the first layer is given sines and cosines of each weight at these, beside the weight."""
    positions: int = Field(0, ge=0)
    """Numbers that are learned for each input and output of the networks, along which layers then share their parameters;
    0: parameters of their own for each, which grow with the square of how many there are."""
    width: PositiveInt = 256
    """Numbers in the vector that a network becomes."""

    def identity(self) -> dict[str, Any]:
        """With the skip that the depth decides: a file says what is, whatever the rule will be."""
        from dwsnet.models import DEEP

        skip = self.num_layers >= DEEP if self.skip is None else self.skip
        return super().identity() | {"skip": skip}

    def build(self, space: WeightSpace) -> DWSNetEncoder:
        from dwsnet.encoders import DWSNetEncoder

        return DWSNetEncoder(
            space,
            self.width,
            self.channels,
            self.num_layers,
            self.canonical_signs,
            self.num_frequencies,
            self.positions,
            num_heads=self.num_heads,
            pooling=self.pooling,
            skip=self.skip,
        )
