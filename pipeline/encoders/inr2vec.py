"""Configuration of INR2Vec's encoder."""

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
    """One MLP on each neuron's row of the weight matrix, max-pooled over rows (De Luigi et al.
    2023)."""
    row_width: PositiveInt = 128
    """Width of the MLP's first two layers; the other two, and the network's vector, are twice as
    wide."""

    def build(self, space: WeightSpace) -> INR2VecEncoder:
        from dwsnet.encoders import INR2VecEncoder

        return INR2VecEncoder(space, self.row_width, self.canonical_signs)
