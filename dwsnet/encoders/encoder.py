"""What an encoder is: networks in, one vector a network out, or features of every entry."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.models import ReadState
from dwsnet.state import check_counts
from dwsnet.weight_space import WeightSpace


class Encoder(nn.Module):
    """Takes stacked state dicts `{name: (batch, *spec.shape)}` of `space`, returns vectors `(batch, width)`."""

    space: WeightSpace
    width: int

    def calibrate(
        self, statistics: Mapping[str, Mapping[str, float]], state: Mapping[str, Tensor]
    ) -> "Encoder":
        """Take from the train split what is not learned: mean and std of each tensor, some stacked state dicts."""
        return self

    def features(self) -> nn.Module:
        """This encoder, its parameters shared, with features in place of the vector.

        The module takes stacked state dicts and returns a tuple of `(batch, *spec.shape, channels)`, one a tensor; it has
        the attributes `space`, `channels` and `read`, the `ReadState` whose `entries` the features are of, and where
        negating hidden units negates the features of their weights, `is_odd`. Raises ValueError where there are no features
        of every entry.
        """
        raise no_features(self)

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch width"]:
        raise NotImplementedError


def features_of(encoder: nn.Module) -> nn.Module:
    """`Encoder.features` of any module that encodes. Raises ValueError where it has none."""
    if not hasattr(encoder, "features"):
        raise no_features(encoder)
    return encoder.features()


def no_features(encoder: nn.Module) -> ValueError:
    return ValueError(
        f"{type(encoder).__name__} gives one vector a network and no features of its entries"
    )


class ReadingEncoder(Encoder):
    """An encoder that begins with `ReadState`: each tensor is standardised by its mean and std over the train split."""

    def __init__(self, space: WeightSpace, width: int, canonical_signs: bool):
        super().__init__()
        check_counts(width=width)
        self.space, self.width = space, width
        self.read = ReadState(space, canonical_signs)

    def calibrate(
        self, statistics: Mapping[str, Mapping[str, float]], state: Mapping[str, Tensor]
    ) -> "ReadingEncoder":
        self.read.standardize.set(statistics)
        return self


class EncoderFeatures(nn.Module):
    """What `Encoder.features` returns of an encoder that begins with `ReadState`: a module on it, with `channels` an entry."""

    is_odd = False

    def __init__(self, encoder: Encoder, channels: int):
        super().__init__()
        self.space, self.channels, self.encoder = encoder.space, channels, encoder

    @property
    def read(self) -> ReadState:
        return self.encoder.read
