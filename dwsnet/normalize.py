"""Normalisation that commutes with hidden permutations: one statistic a tensor or a channel, never one an entry."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.weight_space import WeightSpace


class Standardize(nn.Module):
    """Each tensor minus its mean, over its standard deviation: scalars from the train split, kept as buffers."""

    def __init__(self, space: WeightSpace):
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(space.tensors)))
        self.register_buffer("std", torch.ones(len(space.tensors)))
        self.names = [spec.name for spec in space.tensors]

    def set(self, statistics: Mapping[str, Mapping[str, float]]) -> "Standardize":
        """Take `{tensor name: {"mean": ..., "std": ...}}`; a tensor that does not vary is only centred."""
        for i, name in enumerate(self.names):
            self.mean[i] = statistics[name]["mean"]
            self.std[i] = statistics[name]["std"] or 1.0
        return self

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple((x - self.mean[i]) / self.std[i] for i, x in enumerate(tensors))


class BatchNorm(nn.Module):
    """Batch normalisation of features `(batch, *spec.shape, channels)`: over batch and positions, for each tensor."""

    def __init__(self, space: WeightSpace, channels: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in space.tensors)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(norm(x.flatten(0, -2)).view(x.shape) for norm, x in zip(self.norms, features, strict=True))


class MemberNorm(nn.Module):
    """Each tensor of each member over its own mean and spread, taken over positions and channels; a gain for each channel.

    No batch statistics: the same in training and evaluation, for any batch. Over channels too, because a tensor of one
    entry (an INR's last bias) has no spread over positions.
    """

    def __init__(self, space: WeightSpace, channels: int):
        super().__init__()
        self.gains = nn.ParameterList(torch.ones(channels) for _ in space.tensors)
        self.shifts = nn.ParameterList(torch.zeros(channels) for _ in space.tensors)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(
            torch.addcmul(shift, F.layer_norm(x, x.shape[1:]), gain)
            for x, gain, shift in zip(features, self.gains, self.shifts, strict=True)
        )
