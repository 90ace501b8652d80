"""What a configuration of an encoder is."""

from typing import ClassVar

from dwsnet.encoders import Encoder
from dwsnet.weight_space import WeightSpace
from pipeline.config import Config


class EncoderConfig(Config):
    """A family of encoders: its fields are the configuration, `build` makes the module."""

    title: ClassVar[str]
    """What reports call the family."""

    def build(self, space: WeightSpace) -> Encoder:
        """An encoder of networks of this space; its parameters are drawn from torch's generator."""
        raise NotImplementedError

    def resized(self, size: int) -> "EncoderConfig":
        """The same encoder with more parameters, the larger `size` is; 1 is the smallest there can be."""
        raise NotImplementedError
