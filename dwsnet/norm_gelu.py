"""Batch normalisation and GELU as one autograd function, for float32 on CPUs: `gelu.h`.

Features do not fit into the caches. PyTorch makes about ten passes over them for norm and GELU,
forward and backward; this makes four, and keeps only its input. If the layers themselves can do it,
`dwsnet.normalised` is used instead.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from dwsnet import kernel
from dwsnet.derivatives import gradients_of, is_transformed, wants_more
from dwsnet.memory import empty


def takes(features: Sequence[Tensor]) -> bool:
    """Whether the compiled code can run these features; torch.compile gets PyTorch's operations."""
    return (
        not torch.compiler.is_compiling()
        and not is_transformed()
        and kernel.takes(features, [features[0].shape[-1]])
    )


def plain(epsilon: float, *tensors: Tensor) -> list[Tensor]:
    """The same in differentiable PyTorch operations; `tensors` are features, gains and shifts."""
    return [
        F.gelu(F.batch_norm(x.flatten(0, -2), None, None, gain, shift, True, eps=epsilon)).view_as(
            x
        )
        for x, gain, shift in zip(*thirds(tensors), strict=True)
    ]


def thirds(tensors: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    size = len(tensors) // 3
    return [tensors[start : start + size] for start in range(0, len(tensors), size)]


class NormGELU(torch.autograd.Function):
    """GELU of normalised features `(..., channels)`, then means and variances `(channels,)`.

    Statistics are taken over all dimensions but the channels.
    """

    @staticmethod
    def forward(ctx, epsilon: float, *tensors: Tensor):
        features, gains, shifts = map(kernel.contiguous, thirds(tensors))
        channels = features[0].shape[-1]
        outputs = empty(features[0], [x.shape for x in features])
        moments = [gain.new_empty(2, channels) for gain in gains]
        means, variances = ([pair[i] for pair in moments] for i in range(2))
        kernel.norm_gelu(features, gains, shifts, epsilon, means, variances, outputs)
        ctx.epsilon = epsilon
        ctx.save_for_backward(*features, *gains, *shifts, *means, *variances)
        ctx.mark_non_differentiable(*means, *variances)
        return *outputs, *means, *variances

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        saved, count = ctx.saved_tensors, len(gradients) // 3
        tensors, moments = saved[: 3 * count], saved[3 * count :]
        gradients = tuple(kernel.contiguous(gradients[:count]))
        if wants_more(gradients):
            return None, *gradients_of(partial(plain, ctx.epsilon), tensors, gradients)
        features, gains, shifts = thirds(tensors)
        to_features = empty(features[0], [x.shape for x in features])
        to_gains, to_shifts = ([torch.empty_like(gain) for gain in gains] for _ in range(2))
        kernel.norm_gelu_backward(
            features,
            gains,
            shifts,
            ctx.epsilon,
            moments[:count],
            moments[count:],
            gradients,
            to_features,
            to_gains,
            to_shifts,
        )
        return None, *to_features, *to_gains, *to_shifts


def norm_gelu(
    features: Sequence[Tensor], gains: Sequence[Tensor], shifts: Sequence[Tensor], epsilon: float
) -> list[Sequence[Tensor]]:
    """GELU of normalised features `(..., channels)`, and each one's channel means and variances."""
    return thirds(NormGELU.apply(epsilon, *features, *gains, *shifts))
