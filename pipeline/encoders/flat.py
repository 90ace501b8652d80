"""Configurations of MLPs on the flat parameter vector."""

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
    """An MLP on the flat vector of all weights."""
    width: PositiveInt = 128
    """Width of its two hidden layers; the output of the second is the network's vector."""

    def build(self, space: WeightSpace) -> FlatMLPEncoder:
        from dwsnet.encoders import FlatMLPEncoder

        return FlatMLPEncoder(space, self.width, self.canonical_signs)


class AugmentedMLPConfig(FlatMLPConfig):
    title: ClassVar[str] = "flat MLP, permutation augmentation"

    kind: Literal["mlp-augmented"] = "mlp-augmented"  # type: ignore[assignment]  # not "mlp"
    """The MLP, with hidden neurons randomly permuted in training."""

    def build(self, space: WeightSpace) -> AugmentedMLPEncoder:
        from dwsnet.encoders import AugmentedMLPEncoder

        return AugmentedMLPEncoder(space, self.width, self.canonical_signs)


class AlignedMLPConfig(FlatMLPConfig):
    title: ClassVar[str] = "flat MLP, aligned weights"

    kind: Literal["mlp-aligned"] = "mlp-aligned"  # type: ignore[assignment]  # not "mlp"
    """The MLP, with hidden neurons matched to those of one network of the train split."""

    def build(self, space: WeightSpace) -> AlignedMLPEncoder:
        from dwsnet.encoders import AlignedMLPEncoder

        return AlignedMLPEncoder(space, self.width, self.canonical_signs)
