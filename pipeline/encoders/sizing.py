"""Give every model the same number of parameters, so that a comparison is not one of sizes."""

from collections.abc import Callable

import torch
from torch import nn

from dwsnet.models import num_parameters
from pipeline.encoders.encoder import EncoderConfig


def sized(
    config: EncoderConfig, model: Callable[[EncoderConfig], nn.Module], limit: int
) -> EncoderConfig:
    """The configuration with the largest `sizes` that keep the model within `limit` parameters.

    The model is the encoder with its head. If none is that small, all sizes are 1. `model` builds
    one on the meta device, so nothing is allocated or drawn. Raises ValueError for a size that the
    number of parameters does not depend on.
    """

    def with_size(name: str, value: int | None) -> EncoderConfig:
        return config.model_copy(update={name: value})

    def fits(candidate: EncoderConfig) -> bool:
        with torch.device("meta"):
            return num_parameters(model(candidate)) <= limit

    for name in config.sizes:  # at their defaults until it is their turn
        config = with_size(name, type(config).model_fields[name].default)
    for name in config.sizes:
        low, high = 1, 2
        while fits(with_size(name, high)):
            low, high = high, 2 * high
            if high > 2 * limit:
                raise ValueError(
                    f"{name!r} of {type(config).__name__} must change the number of parameters to "
                    "be one of its sizes"
                )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(with_size(name, middle)) else (low, middle)
        config = with_size(name, low)
    return config
