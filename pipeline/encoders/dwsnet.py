"""Configuration of the DWSNet."""

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
    """Heads of attention among the neurons of each hidden layer, in every equivariant layer; 0:
    affine layers only."""
    pooling: Literal["mean", "sum", "max", "attention"] = "mean"
    """How equivariant layers pool over neurons."""
    skip: bool | None = None
    """Add each equivariant layer's input to its output; null: if there are six layers or more."""
    num_frequencies: int = Field(0, ge=0)
    """Learned frequencies: the first layer reads each weight and its sines and cosines at these."""
    positions: int = Field(0, ge=0)
    """Size of a learned embedding of each input and output of the networks, over which layers then
    share parameters; 0: separate parameters for each, growing with the square of their number."""
    width: PositiveInt = 256
    """Width of the vector that a network is encoded as."""

    def identity(self) -> dict[str, Any]:
        """With `skip` resolved, so that a file means the same if the rule changes."""
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
