"""Configuration of the transformer over rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveInt

from pipeline.encoders.encoder import ReadingConfig

if TYPE_CHECKING:
    from dwsnet.encoders import TransformerEncoder
    from dwsnet.weight_space import WeightSpace


class TransformerConfig(ReadingConfig):
    title: ClassVar[str] = "transformer"
    sizes: ClassVar[tuple[str, ...]] = ("head_dim", "feedforward")

    kind: Literal["transformer"] = "transformer"
    """Four layers of attention among the neurons' rows of the weight matrices (Schuerholt et al.
    2021)."""
    head_dim: PositiveInt = 16
    """Width of each of the four heads; tokens, and the network's vector, are four times as wide."""
    feedforward: PositiveInt | None = None
    """Width of the feedforward layers; null: twice the width of tokens."""

    def build(self, space: WeightSpace) -> TransformerEncoder:
        from dwsnet.encoders import TransformerEncoder

        return TransformerEncoder(space, self.head_dim, self.feedforward, self.canonical_signs)
