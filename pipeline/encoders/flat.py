"""MLPs on the flat parameter vector, as configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveInt

from pipeline.encoders.encoder import ReadingConfig

if TYPE_CHECKING:
    from dwsnet.encoders import AlignedMLPEncoder, AugmentedMLPEncoder, FlatMLPEncoder
    from dwsnet.weight_space import WeightSpace


class FlatMLPConfig(ReadingConfig):
    title: ClassVar[str] = "flat MLP"
    sizes: ClassVar[tuple[str, ...]] = ("width",)

    kind: Literal["mlp"] = "mlp"
    """An MLP on all weights in one row."""
    width: PositiveInt = 128
    """Of its two hidden layers, the second of which is the vector that a network becomes."""

    def build(self, space: WeightSpace) -> FlatMLPEncoder:
        from dwsnet.encoders import FlatMLPEncoder

        return FlatMLPEncoder(space, self.width, self.canonical_signs)


class AugmentedMLPConfig(FlatMLPConfig):
    title: ClassVar[str] = "flat MLP, permutation augmentation"

    kind: Literal["mlp-augmented"] = "mlp-augmented"
    """The MLP, hidden neurons in a random order in training."""

    def build(self, space: WeightSpace) -> AugmentedMLPEncoder:
        from dwsnet.encoders import AugmentedMLPEncoder

        return AugmentedMLPEncoder(space, self.width, self.canonical_signs)


class AlignedMLPConfig(FlatMLPConfig):
    title: ClassVar[str] = "flat MLP, aligned weights"

    kind: Literal["mlp-aligned"] = "mlp-aligned"
    """The MLP, hidden neurons matched to those of one network of the train split."""

    def build(self, space: WeightSpace) -> AlignedMLPEncoder:
        from dwsnet.encoders import AlignedMLPEncoder

        return AlignedMLPEncoder(space, self.width, self.canonical_signs)
