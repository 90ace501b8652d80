"""Normalisation that commutes with hidden permutations.

There is one statistic per tensor or channel, never one per entry.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, nan, prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet import norm_gelu
from dwsnet.derivatives import hooked
from dwsnet.state import check_features, check_tensors
from dwsnet.weight_space import WeightSpace


class Standardize(nn.Module):
    """Subtract each tensor's mean and divide by its standard deviation.

    Both are scalars from the train split, kept as buffers.
    """

    def __init__(self, space: WeightSpace):
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(space.tensors)))
        self.register_buffer("std", torch.ones(len(space.tensors)))
        self.space = space

    def set(self, statistics: Mapping[str, Mapping[str, float]]) -> "Standardize":
        """Set `{tensor name: {"mean": ..., "std": ...}}`; a constant tensor is only centred.

        Raises ValueError if they are missing or not finite for a tensor.
        """
        for i, spec in enumerate(self.space.tensors):
            known = statistics.get(spec.name, {})
            values = [float(known.get(key, nan)) for key in ("mean", "std")]
            if not all(map(isfinite, values)):
                raise ValueError(
                    f"statistics of tensor {spec.name!r} must be a finite mean and std, found "
                    f"{known}"
                )
            self.mean[i], self.std[i] = values[0], values[1] or 1.0
        return self

    def forward(
        self, tensors: Sequence[Float[Tensor, "batch ..."]]
    ) -> tuple[Float[Tensor, "batch ..."], ...]:
        check_tensors(self.space, tensors)
        return tuple((x - self.mean[i]) / self.std[i] for i, x in enumerate(tensors))


class BatchNorm1d(nn.BatchNorm1d):
    """PyTorch's for `(values, channels)`; a single value is normalised by running statistics."""

    def forward(self, x: Float[Tensor, "values channels"]) -> Float[Tensor, "values channels"]:
        if self.training and x.shape[0] == 1:
            known = self.running_mean, self.running_var, self.weight, self.bias
            return F.batch_norm(x, *known, eps=self.eps)
        return super().forward(x)


class BatchNorm(nn.Module):
    """Batch normalisation of features `(batch, *spec.shape, channels)`, tensor by tensor.

    Statistics are taken over batch and positions. With `gelu`, GELU is applied too, on CPUs in the
    same passes. A tensor of one entry in a batch of one is normalised by its running statistics.
    """

    def __init__(self, space: WeightSpace, channels: int, gain: float = 1.0, gelu: bool = False):
        super().__init__()
        self.space, self.channels, self.gelu = space, channels, gelu
        self.norms = nn.ModuleList(BatchNorm1d(channels) for _ in space.tensors)
        for norm in self.norms:
            nn.init.constant_(norm.weight, gain)

    def forward(
        self, features: Sequence[Float[Tensor, "batch ... {self.channels}"]]
    ) -> tuple[Float[Tensor, "batch ... {self.channels}"], ...]:
        check_features(self.space, features, self.channels, self.norms[0].weight)
        if self.gelu and self.training and self.is_fast(features):
            return self.fast(features)
        outputs = (
            norm(x.flatten(0, -2)).view(x.shape)
            for norm, x in zip(self.norms, features, strict=True)
        )
        return tuple(map(F.gelu, outputs) if self.gelu else outputs)

    def is_fast(self, features: Sequence[Tensor]) -> bool:
        return (
            all(x.numel() > self.channels for x in features)
            and not any(map(hooked, self.norms))
            and norm_gelu.takes(features)
        )

    def fast(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Norm and GELU in compiled code, with running statistics as PyTorch keeps them."""
        gains, shifts = (
            [getattr(norm, name) for norm in self.norms] for name in ("weight", "bias")
        )
        of_batch = norm_gelu.norm_gelu(features, gains, shifts, self.norms[0].eps)
        with torch.no_grad():
            self.update([x.numel() // self.channels for x in features], *of_batch[1:])
        return tuple(of_batch[0])

    def alike(self) -> bool:
        """Whether all tensors' norms are unmodified and in the same mode as this module."""
        return all(type(x) is BatchNorm1d and x.training == self.training for x in self.norms)

    def coefficients(
        self, sums: Float[Tensor, "2 tensors channels"], members: int
    ) -> Float[Tensor, "2 tensors channels"]:
        """The norm as a x + b of features x: a and b for each tensor and channel.

        `sums` are those of the features of `members` members and of their squares. In training,
        batch statistics come from them and update the running ones, as in a call of the norm.
        """
        norms, first = self.norms, self.norms[0]
        mean = torch.stack([norm.running_mean for norm in norms]).double()  # (tensors, channels)
        variance = torch.stack([norm.running_var for norm in norms]).double()
        if self.training:
            counts = [members * prod(spec.shape) for spec in self.space.tensors]
            count = sums.new_tensor(counts).unsqueeze(1)  # (tensors, 1)
            several = count > 1
            batch_mean = sums[0] / count
            batch_variance = (sums[1] / count - batch_mean.square()).clamp(min=0)
            with torch.no_grad():
                self.update(counts, batch_mean, batch_variance)
            mean = torch.where(several, batch_mean, mean)
            variance = torch.where(several, batch_variance, variance)
        gain = torch.stack([norm.weight for norm in norms]) * (variance + first.eps).rsqrt()
        shift = torch.stack([norm.bias for norm in norms]) - mean * gain
        return torch.stack([gain, shift]).float()

    def update(self, counts: Sequence[int], means: Iterable[Tensor], variances: Iterable[Tensor]):
        """Update the running statistics by those of a batch, except for single values."""
        for norm, count, mean, variance in zip(self.norms, counts, means, variances, strict=True):
            if count > 1:
                norm.num_batches_tracked += 1
                norm.running_mean.lerp_(mean.float(), norm.momentum)
                norm.running_var.lerp_((variance * count / (count - 1)).float(), norm.momentum)


class MemberNorm(nn.Module):
    """Normalise each tensor of each member over positions and channels, with a gain per channel.

    There are no batch statistics, so it is the same in training and evaluation, for any batch. It
    includes channels because a tensor of one entry (an INR's last bias) has no spread over
    positions. With `gelu`, GELU is applied too.
    """

    def __init__(self, space: WeightSpace, channels: int, gain: float = 1.0, gelu: bool = False):
        super().__init__()
        self.space, self.channels, self.gelu = space, channels, gelu
        self.gains = nn.ParameterList(torch.full((channels,), gain) for _ in space.tensors)
        self.shifts = nn.ParameterList(torch.zeros(channels) for _ in space.tensors)

    def forward(
        self, features: Sequence[Float[Tensor, "batch ... {self.channels}"]]
    ) -> tuple[Float[Tensor, "batch ... {self.channels}"], ...]:
        check_features(self.space, features, self.channels, self.gains[0])
        flat = (
            x.flatten(1) for x in features
        )  # as it is in memory; layer_norm's gradient cannot be traced for others
        outputs = (
            torch.addcmul(shift, F.layer_norm(rows, rows.shape[1:]).view(x.shape), gain)
            for x, rows, gain, shift in zip(features, flat, self.gains, self.shifts, strict=True)
        )
        return tuple(map(F.gelu, outputs) if self.gelu else outputs)
