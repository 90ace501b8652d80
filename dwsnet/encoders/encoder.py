"""The bases of encoders, which map networks to one vector each, or to features of every entry."""

from collections.abc import Mapping
from inspect import ismethod

from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.models import ReadState
from dwsnet.state import check_counts
from dwsnet.weight_space import WeightSpace


class Encoder(nn.Module):
    """Maps stacked state dicts `{name: (batch, *spec.shape)}` of `space` to `(batch, width)`."""

    space: WeightSpace
    width: int

    def calibrate(
        self, statistics: Mapping[str, Mapping[str, float]], state: Mapping[str, Tensor]
    ) -> "Encoder":
        """Set what is computed from the train split rather than learned.

        Takes mean and std of each tensor, and some stacked state dicts.
        """
        return self

    def features(self) -> nn.Module:
        """A module that shares this encoder's parameters and returns features, not the vector.

        It maps stacked state dicts to a tuple of `(batch, *spec.shape, channels)`, one per tensor,
        and has the attributes `space`, `channels`, `read` (the `ReadState` whose `entries` have
        these features) and, if negating hidden units negates the features of their weights,
        `is_odd`. Raises ValueError if there are no features of every entry.
        """
        raise no_features(self)

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch width"]:
        raise NotImplementedError


def features_of(encoder: nn.Module) -> nn.Module:
    """`Encoder.features` of any encoding module. Raises ValueError if it has none, or others."""
    if not ismethod(getattr(encoder, "features", None)):
        raise no_features(encoder)
    features = encoder.features()
    if missing := [name for name in ("space", "channels", "read") if not hasattr(features, name)]:
        raise ValueError(
            f"features of {type(encoder).__name__} must be a module with space, channels and read, "
            f"found {type(features).__name__} without {', '.join(missing)}"
        )
    return features


def no_features(encoder: nn.Module) -> ValueError:
    return ValueError(
        f"{type(encoder).__name__} gives one vector per network and no features of its entries"
    )


class ReadingEncoder(Encoder):
    """An encoder that starts with `ReadState`.

    Each tensor is standardised by its mean and std over the train split.
    """

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
    """Base of the modules that `Encoder.features` returns, with `channels` features per entry."""

    is_odd = False

    def __init__(self, encoder: Encoder, channels: int):
        super().__init__()
        self.space, self.channels, self.encoder = encoder.space, channels, encoder

    @property
    def read(self) -> ReadState:
        return self.encoder.read
