"""What an encoder is: networks in, one vector a network out, or features of every entry."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

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
        the attributes `space` and `channels`. Raises ValueError where there are no features of every entry.
        """
        raise ValueError(
            f"{type(self).__name__} gives one vector a network and no features of its entries"
        )

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch width"]:
        raise NotImplementedError
