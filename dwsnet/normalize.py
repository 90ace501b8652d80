"""Normalisation that commutes with hidden permutations: one statistic a tensor or a channel, never one an entry."""

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
    """Each tensor minus its mean, over its standard deviation: scalars from the train split, kept as buffers."""

    def __init__(self, space: WeightSpace):
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(space.tensors)))
        self.register_buffer("std", torch.ones(len(space.tensors)))
        self.space = space

    def set(self, statistics: Mapping[str, Mapping[str, float]]) -> "Standardize":
        """Take `{tensor name: {"mean": ..., "std": ...}}`; a tensor that does not vary is only centred.

        Raises ValueError where a tensor has none, or one that is not finite.
        """
        for i, spec in enumerate(self.space.tensors):
            known = statistics.get(spec.name, {})
            values = [float(known.get(key, nan)) for key in ("mean", "std")]
            if not all(map(isfinite, values)):
                raise ValueError(
                    f"statistics of tensor {spec.name!r} must be a finite mean and std, found {known}"
                )
            self.mean[i], self.std[i] = values[0], values[1] or 1.0
        return self

    def forward(
        self, tensors: Sequence[Float[Tensor, "batch ..."]]
    ) -> tuple[Float[Tensor, "batch ..."], ...]:
        check_tensors(self.space, tensors)
        return tuple((x - self.mean[i]) / self.std[i] for i, x in enumerate(tensors))


class BatchNorm1d(nn.BatchNorm1d):
    """PyTorch's of `(values, channels)`; one value alone has no spread, and running statistics serve as in evaluation."""

    def forward(self, x: Float[Tensor, "values channels"]) -> Float[Tensor, "values channels"]:
        if self.training and x.shape[0] == 1:
            known = self.running_mean, self.running_var, self.weight, self.bias
            return F.batch_norm(x, *known, eps=self.eps)
        return super().forward(x)


class BatchNorm(nn.Module):
    """Batch normalisation of features `(batch, *spec.shape, channels)`: over batch and positions, for each tensor; with
    `gelu` GELU of that, on CPUs in the same passes.

    A tensor of one entry in a batch of one is normalised by its running statistics.
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
        """Normalised, through GELU, in compiled code; running statistics are kept as PyTorch keeps them."""
        gains, shifts = (
            [getattr(norm, name) for norm in self.norms] for name in ("weight", "bias")
        )
        of_batch = norm_gelu.norm_gelu(features, gains, shifts, self.norms[0].eps)
        with torch.no_grad():
            self.update([x.numel() // self.channels for x in features], *of_batch[1:])
        return tuple(of_batch[0])

    def alike(self) -> bool:
        """Whether the norms of all tensors are as they were made, and train where this does."""
        return all(type(x) is BatchNorm1d and x.training == self.training for x in self.norms)

    def coefficients(
        self, sums: Float[Tensor, "2 tensors channels"], members: int
    ) -> Float[Tensor, "2 tensors channels"]:
        """a and b of each tensor and channel: a x + b is what the norm makes of features x.

        `sums` are those of the features of so many members and of their squares. Statistics of training come from these
        and move the running ones, as they do where the norm is called.
        """
        norms, first = self.norms, self.norms[0]
        mean = torch.stack([norm.running_mean for norm in norms]).double()
        variance = torch.stack([norm.running_var for norm in norms]).double()
        if self.training:
            counts = [members * prod(spec.shape) for spec in self.space.tensors]
            count = sums.new_tensor(counts).unsqueeze(1)
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
        """Move the running statistics towards those of a batch; of one value alone there are none."""
        for norm, count, mean, variance in zip(self.norms, counts, means, variances, strict=True):
            if count > 1:
                norm.num_batches_tracked += 1
                norm.running_mean.lerp_(mean.float(), norm.momentum)
                norm.running_var.lerp_((variance * count / (count - 1)).float(), norm.momentum)


class MemberNorm(nn.Module):
    """Each tensor of each member over its own mean and spread, taken over positions and channels; a gain for each channel.

    No batch statistics: the same in training and evaluation, for any batch. Over channels too, because a tensor of one
    entry (an INR's last bias) has no spread over positions. With `gelu` GELU of that.
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
