"""The bases of encoder configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pipeline.config import Config

if TYPE_CHECKING:
    from dwsnet.encoders import Encoder
    from dwsnet.weight_space import WeightSpace
    from pipeline.archive.zoo import Zoo


class EncoderConfig(Config):
    """A family of encoders: the fields are its configuration, `build` makes the module."""

    title: ClassVar[str]
    """The family's name in reports."""
    sizes: ClassVar[tuple[str, ...]] = ()
    """Fields that are set to match a given number of parameters, each at least 1. The first is made
    as large as possible, the others use what is left."""

    def check(self, zoo: Zoo):
        """Raise InputError if the members of the zoo are not as the configuration says."""

    def build(self, space: WeightSpace) -> Encoder:
        """Build an encoder for networks of this space, initialised from torch's generator."""
        raise NotImplementedError


class ReadingConfig(EncoderConfig):
    """A family whose encoders start with `dwsnet.models.ReadState`."""

    canonical_signs: bool = False
    """First negate hidden units so that no bias is negative, which leaves the functions of networks
    with odd activations (sine, finer, tanh) unchanged."""
