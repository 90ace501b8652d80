"""An MLP on statistics of tensors, as configuration."""

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
    """An MLP on the mean, the variance and five quantiles of each tensor (Unterthiner et al. 2020)."""
    width: PositiveInt = 256
    """Of its two hidden layers, the second of which is the vector that a network becomes."""

    def build(self, space: WeightSpace) -> StatisticsEncoder:
        from dwsnet.encoders import StatisticsEncoder

        return StatisticsEncoder(space, self.width, self.canonical_signs)
