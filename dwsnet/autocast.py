"""Mixed precision: one cast before a layer's products, none between them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

WITHOUT = "meta"
"""The device type without autocast. PyTorch 2.11 cannot compile a query for it."""


def autocast_dtype(device: str) -> torch.dtype | None:
    """The autocast dtype of a device type; None if autocast is off or does not exist there."""
    if device == WITHOUT or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def no_autocast(device: str) -> AbstractContextManager:
    """A context without autocast, as in-place products need one dtype."""
    if device == WITHOUT:
        return nullcontext()
    return torch.autocast(device, enabled=False)


def cast(
    features: Sequence[Tensor], parameters: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Cast both to the autocast dtype, if autocast is on."""
    dtype = autocast_dtype(features[0].device.type)
    if dtype is None:
        return features, parameters
    return [x.to(dtype) for x in features], [x.to(dtype) for x in parameters]
