"""INR2Vec's encoder, as configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveInt

from pipeline.encoders.encoder import ReadingConfig

if TYPE_CHECKING:
    from dwsnet.encoders import INR2VecEncoder
    from dwsnet.weight_space import WeightSpace


class INR2VecConfig(ReadingConfig):
    title: ClassVar[str] = "INR2Vec"
    sizes: ClassVar[tuple[str, ...]] = ("row_width",)

    kind: Literal["inr2vec"] = "inr2vec"
    """One MLP for the row of each neuron, and the maximum over rows (De Luigi et al. 2023)."""
    row_width: PositiveInt = 128
    """Of the MLP's first two layers; the other two, and the vector that a network becomes, are twice as wide."""

    def build(self, space: WeightSpace) -> INR2VecEncoder:
        from dwsnet.encoders import INR2VecEncoder

        return INR2VecEncoder(space, self.row_width, self.canonical_signs)
