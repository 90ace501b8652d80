"""The same number of parameters for every model: a comparison that is not one of sizes."""

from collections.abc import Callable

import torch
from torch import nn

from dwsnet.models import num_parameters
from pipeline.encoders.encoder import EncoderConfig


def sized(
    config: EncoderConfig, model: Callable[[EncoderConfig], nn.Module], limit: int
) -> EncoderConfig:
    """The configuration with the largest `sizes` at which the model, encoder and head, has at most `limit` parameters.

    All sizes are 1 where no model is so small. `model` builds one on the meta device: nothing is allocated, nothing drawn.
    Raises ValueError for a size that the number of parameters does not depend on.
    """

    def with_size(name: str, value: int | None) -> EncoderConfig:
        return config.model_copy(update={name: value})

    def fits(candidate: EncoderConfig) -> bool:
        with torch.device("meta"):
            return num_parameters(model(candidate)) <= limit

    for name in config.sizes:  # as they are by default while those before them are decided
        config = with_size(name, type(config).model_fields[name].default)
    for name in config.sizes:
        low, high = 1, 2
        while fits(with_size(name, high)):
            low, high = high, 2 * high
            if high > 2 * limit:
                raise ValueError(
                    f"{name!r} of {type(config).__name__} must change the number of parameters to be one of its sizes"
                )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(with_size(name, middle)) else (low, middle)
        config = with_size(name, low)
    return config
