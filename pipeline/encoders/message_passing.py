"""Message passing among neurons, as configuration."""

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
    """Features of neurons, carried by the weights through the network's own order, forwards and backwards."""
    channels: PositiveInt = 64
    """Feature channels of each neuron."""
    rounds: PositiveInt = 2
    """Times that features go forwards and backwards."""
    maps: PositiveInt = 6
    """Numbers that each weight becomes."""
    num_frequencies: int = Field(4, ge=0)
    """Learned frequencies: of each weight its sines and cosines at these are known too."""
    signs: bool = False
    """Read networks alike whatever the signs of their hidden units: needs odd activations (sine, tanh)."""
    width: PositiveInt = 256
    """Numbers in the vector that a network becomes."""

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
