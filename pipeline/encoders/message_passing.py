"""Configuration of message passing among neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt

from pipeline.encoders.encoder import EncoderConfig

if TYPE_CHECKING:
    from dwsnet.encoders import MessagePassingEncoder
    from dwsnet.weight_space import WeightSpace


class MessagePassingConfig(EncoderConfig):
    title: ClassVar[str] = "message passing"
    sizes: ClassVar[tuple[str, ...]] = ("channels", "width")

    kind: Literal["message-passing"] = "message-passing"
    """Features of neurons, carried forwards and backwards through the network by its weights."""
    channels: PositiveInt = 64
    """Feature channels of each neuron."""
    rounds: PositiveInt = 2
    """Number of forward and backward passes."""
    maps: PositiveInt = 6
    """Learned maps of each weight: it is turned into this many numbers."""
    num_frequencies: int = Field(4, ge=0)
    """Learned frequencies: each weight is read with its sines and cosines at these."""
    signs: bool = False
    """Make the encoder invariant to sign flips of hidden units; needs odd activations (sine,
    finer, tanh)."""
    width: PositiveInt = 256
    """Width of the vector that a network is encoded as."""

    def build(self, space: WeightSpace) -> MessagePassingEncoder:
        from dwsnet.encoders import MessagePassingEncoder

        return MessagePassingEncoder(
            space,
            self.width,
            self.channels,
            self.rounds,
            self.maps,
            self.num_frequencies,
            self.signs,
        )
