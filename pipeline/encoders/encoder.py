"""What a configuration of an encoder is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pipeline.config import Config

if TYPE_CHECKING:
    from dwsnet.encoders import Encoder
    from dwsnet.weight_space import WeightSpace


class EncoderConfig(Config):
    """A family of encoders: its fields are the configuration, `build` makes the module."""

    title: ClassVar[str]
    """What reports call the family."""
    sizes: ClassVar[tuple[str, ...]] = ()
    """Fields that follow from a number of parameters where one is asked for: 1 is the smallest each can be. The first goes
    as far as it can, those after it take up what is left."""

    def build(self, space: WeightSpace) -> Encoder:
        """An encoder of networks of this space; its parameters are drawn from torch's generator."""
        raise NotImplementedError


class ReadingConfig(EncoderConfig):
    """A family whose encoders begin with `dwsnet.models.ReadState`."""

    canonical_signs: bool = False
    """Negate hidden sine units so that no bias is negative, before anything else: INRs stay the same functions."""
