"""Forward and backward passes of many classifiers of one architecture at once.

Each has its own weights and activation. Activations are `(members, batch, ...)`. Linear layers are
batched matrix products. Convolutions are grouped, with one group per member, except the first,
which has too few input channels and is a matrix product of patches. Feature maps are stored as
`(batch, members, ...)`, the layout of grouped convolutions.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from dwsnet.state import unpack
from dwsnet.weight_space import WeightSpace
from pipeline.fit.activations import ACTIVATIONS

KERNEL = 3
Activations = Sequence[tuple[slice, str]]
"""Slices of members with the same activation."""


class Linear:
    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    def backward(
        self, delta: Tensor, x: Tensor, weight: Tensor, is_first: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of weight, bias and x, from the gradient of the output."""
        return (
            torch.bmm(delta.transpose(1, 2), x),
            delta.sum(1),
            None if is_first else torch.bmm(delta, weight),
        )


class PooledLinear(Linear):
    """Global average pool, then a linear layer."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return super().forward(x.mean((-2, -1)), weight, bias)

    def backward(
        self, delta: Tensor, x: Tensor, weight: Tensor, is_first: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        of_weight, of_bias, of_pooled = super().backward(delta, x.mean((-2, -1)), weight, False)
        assert of_pooled is not None
        return of_weight, of_bias, of_pooled[..., None, None] / prod(x.shape[-2:])


class PatchConvolution:
    """A convolution of patches `(members, batch, channels * 9, rows, columns)`."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        values = torch.matmul(weight.flatten(2), x.flatten(3).transpose(0, 1)).add_(
            bias.unsqueeze(-1)
        )
        return values.unflatten(-1, x.shape[3:]).transpose(0, 1)

    def backward(
        self, delta: Tensor, x: Tensor, weight: Tensor, is_first: bool
    ) -> tuple[Tensor, Tensor, None]:
        delta = delta.flatten(3)
        of_weight = torch.matmul(
            delta.transpose(0, 1), x.flatten(3).transpose(0, 1).transpose(2, 3)
        ).sum(0)
        return of_weight.view(weight.shape), delta.sum((1, 3)), None


class Convolution:
    def __init__(self, stride: int):
        self.stride = stride

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        values = F.conv2d(
            grouped(x),
            weight.flatten(0, 1),
            bias.flatten(),
            stride=self.stride,
            padding=KERNEL // 2,
            groups=len(weight),
        )
        return values.unflatten(1, (len(weight), -1)).transpose(0, 1)

    def backward(
        self, delta: Tensor, x: Tensor, weight: Tensor, is_first: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            *(
                grouped(delta),
                grouped(x),
                weight.flatten(0, 1),
                [weight.shape[0] * weight.shape[1]],
            ),
            *(
                [self.stride] * 2,
                [KERNEL // 2] * 2,
                [1, 1],
                False,
                [0, 0],
                len(weight),
                [True, True, True],
            ),
        )
        members = (len(weight), -1)
        return (
            of_weight.view(weight.shape),
            of_bias.view(members),
            of_x.unflatten(1, members).transpose(0, 1),
        )


def softmax(logits: Tensor) -> Tensor:
    """Softmax over few classes: torch's own takes five times as long on a CPU."""
    powers = (logits - logits.amax(-1, keepdim=True)).exp_()
    return powers.div_(powers.sum(-1, keepdim=True))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """`(members, batch)` losses of logits `(members, batch, classes)`; faster than torch's, too."""
    return logits.logsumexp(-1) - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def grouped(x: Tensor) -> Tensor:
    """`(members, batch, channels, ...)` as `(batch, members * channels, ...)`, here a view."""
    return x.transpose(0, 1).flatten(1, 2)


class Stack:
    """An architecture. Images are `(images, channels, height, width)`."""

    def __init__(self, space: WeightSpace, stride: int):
        self.space, self.stride = space, stride
        self.weights = space.tensors[::2]
        self.is_convolutional = len(self.weights[0].shape) == 4
        middle: list = [
            Convolution(stride) if self.is_convolutional else Linear() for _ in self.weights[1:-1]
        ]
        ends = (
            (PatchConvolution(), PooledLinear()) if self.is_convolutional else (Linear(), Linear())
        )
        self.layers = [ends[0], *middle, ends[1]]
        self.num_units = [spec.shape[0] for spec in self.weights[:-1]]

    def prepare(self, images: Tensor) -> Tensor:
        """Prepare images for `inputs`: padded for a CNN, flattened for an MLP."""
        return (
            F.pad(images, [KERNEL // 2] * 4) if self.is_convolutional else images.flatten(1)
        ).contiguous()

    def inputs(self, prepared: Tensor, index: Tensor) -> Tensor:
        """The input of the first layer for the images at `index` `(members, batch)`."""
        if not self.is_convolutional:
            return prepared.index_select(0, index.flatten()).view(*index.shape, -1)
        chosen = (
            prepared.flatten(1).index_select(0, index.t().flatten()).view(-1, *prepared.shape[1:])
        )
        images, channels, rows, columns = chosen.stride()
        sizes = [(size - KERNEL) // self.stride + 1 for size in chosen.shape[2:]]
        patches = chosen.as_strided(
            (len(chosen), chosen.shape[1], KERNEL, KERNEL, *sizes),
            (images, channels, rows, columns, rows * self.stride, columns * self.stride),
        )
        return patches.reshape(*index.t().shape, -1, *sizes).transpose(0, 1)

    def floats_per_image(self, prepared: Tensor) -> int:
        """Size of the largest activations, or inputs, of one image of one member."""
        inputs = self.inputs(prepared, torch.zeros(1, 1, dtype=torch.int64, device=prepared.device))
        return max(inputs.numel(), prod(inputs.shape[3:]) * max(self.num_units))

    def logits(self, rows: Tensor, inputs: Tensor, activations: Activations) -> Tensor:
        """`(members, batch, classes)`, without dropout."""
        tensors, x = [*unpack(self.space, rows).values()], inputs
        for i, layer in enumerate(self.layers):
            x = layer.forward(x, tensors[2 * i], tensors[2 * i + 1])
            for members, name in activations if i < len(self.layers) - 1 else ():
                ACTIVATIONS[name](x[members], None)
        return x

    def gradients(
        self,
        rows: Tensor,
        inputs: Tensor,
        targets: Tensor,
        activations: Activations,
        masks: Sequence[Tensor] | None,
    ) -> Tensor:
        """`(members, parameters)` gradients of each member's mean cross-entropy.

        `targets` is `(members, batch)`; `masks` has dropout masks `(members, batch, units)`, one
        per hidden layer.
        """
        tensors, values, slopes = [*unpack(self.space, rows).values()], [inputs], []
        for i, layer in enumerate(self.layers[:-1]):
            x = layer.forward(values[-1], tensors[2 * i], tensors[2 * i + 1])
            slope = torch.empty_like(x)
            for members, name in activations:
                ACTIVATIONS[name](x[members], slope[members])
            if masks is not None:
                mask = masks[i].view(*masks[i].shape, *[1] * (x.ndim - 3))
                x, slope = x.mul_(mask), slope.mul_(mask)
            values.append(x)
            slopes.append(slope)
        delta = softmax(self.layers[-1].forward(values[-1], *tensors[-2:]))
        delta.scatter_add_(
            -1, targets.unsqueeze(-1), delta.new_full((), -1).expand(*targets.shape, 1)
        ).div_(targets.shape[1])
        parts: list[Tensor] = []
        for i in reversed(range(len(self.layers))):
            of_weight, of_bias, of_x = self.layers[i].backward(
                delta, values[i], tensors[2 * i], i == 0
            )
            parts = [of_weight.flatten(1), of_bias, *parts]
            if of_x is not None:
                delta = slopes[i - 1].mul_(of_x)
        return torch.cat(parts, 1)
