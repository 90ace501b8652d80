"""Configuration of an MLP on statistics of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveInt

from pipeline.encoders.encoder import ReadingConfig

if TYPE_CHECKING:
    from dwsnet.encoders import StatisticsEncoder
    from dwsnet.weight_space import WeightSpace


class StatisticsConfig(ReadingConfig):
    title: ClassVar[str] = "statistics"
    sizes: ClassVar[tuple[str, ...]] = ("width",)

    kind: Literal["statistics"] = "statistics"
    """An MLP on the mean, the variance and five quantiles of each tensor (Unterthiner et al.
    2020)."""
    width: PositiveInt = 256
    """Width of its two hidden layers; the output of the second is the network's vector."""

    def build(self, space: WeightSpace) -> StatisticsEncoder:
        from dwsnet.encoders import StatisticsEncoder

        return StatisticsEncoder(space, self.width, self.canonical_signs)
