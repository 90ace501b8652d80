"""Mixed precision: one cast before a layer's own products, none between them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

WITHOUT = "meta"
"""The type of device that has no autocast. PyTorch 2.11 cannot compile a question for it."""


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype of autocast on a type of device; None where it is off or where there is none."""
    if device == WITHOUT or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def no_autocast(device: str) -> AbstractContextManager:
    """A context without autocast: products in place take one dtype."""
    if device == WITHOUT:
        return nullcontext()
    return torch.autocast(device, enabled=False)


def cast(
    features: Sequence[Tensor], parameters: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Both in the dtype of autocast, where that is on."""
    dtype = autocast_dtype(features[0].device.type)
    if dtype is None:
        return features, parameters
    return [x.to(dtype) for x in features], [x.to(dtype) for x in parameters]
