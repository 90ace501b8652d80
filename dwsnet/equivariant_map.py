"""The one map that all layers are made of, and its derivative: gather, multiply, scatter.

Compiled where `dwsnet.kernel` takes the features; in PyTorch elsewhere: on GPUs, and in float64 or under autocast.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dwsnet import kernel
from dwsnet.incidence import Incidence, Move, Reduce, mean, total

Term = tuple[Move, Tensor, float]
"""What a move spreads, of size one along the axis that it adds, and the factor that it takes."""


def cast(
    features: Sequence[Tensor], parameters: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Both in the dtype of autocast, where that is on."""
    device = features[0].device.type
    if not torch.is_autocast_enabled(device):
        return features, parameters
    dtype = torch.get_autocast_dtype(device)
    return [x.to(dtype) for x in features], [x.to(dtype) for x in parameters]


def scatter(
    incidence: Incidence,
    gathered: Sequence[Tensor],
    weights: Sequence[Tensor],
    channels: int,
    bias: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gathered features times their `(in, out)` matrices, spread along the axes that were pooled away, and summed.

    With a bias this is the layer. Without one it is the layer's transpose: the transpose of a mean is a repeat divided
    by the count. Small terms come first, so that a tensor that alone carries its hidden axes takes one pass.
    """
    mapped: list[Tensor] = []
    for s, (x, weight) in enumerate(zip(gathered, weights, strict=True)):
        rows, shape = x.flatten(0, -2), (*x.shape[:-1], weight.shape[1])
        terms: list[Term] = [
            (
                move,
                move.spread(mapped[move.small], channels),
                1.0 if bias is not None else 1 / move.size,
            )
            for move in incidence.moves_into[s]
        ]
        if incidence.alone(s):
            result = broadcast_sum([(term, alpha) for _, term, alpha in terms], shape)
            result.view(-1, shape[-1]).addmm_(rows, weight)
        else:
            product = rows @ weight if s or bias is None else torch.addmm(bias, rows, weight)
            result = product.view(shape)
            for move, term, alpha in terms:
                move.columns(result, channels).add_(term, alpha=alpha)
        mapped.append(result)
    return incidence.take(mapped, channels)


def broadcast_sum(terms: Sequence[tuple[Tensor, float]], shape: Sequence[int]) -> Tensor:
    """The sum of each term times its factor, in new memory of that shape."""
    (result, factor), *others = terms
    if factor != 1:
        result = result * factor
    for term, factor in others:
        result = torch.add(result, term, alpha=factor)
    return (
        result
        if others and result.shape == shape
        else result.expand(shape).clone(memory_format=torch.contiguous_format)
    )


def outer(left: Tensor, right: Tensor) -> Tensor:
    """`(left width, right width)`: the sum over members and positions of `left` times `right`.

    Member by member where that takes no more room than its input: many tall products are faster than one.
    """
    if left[0, ..., 0].numel() < max(left.shape[-1], right.shape[-1]):
        return left.flatten(0, -2).t() @ right.flatten(0, -2)
    return torch.bmm(left.flatten(1, -2).transpose(1, 2), right.flatten(1, -2)).sum(0)


def where_positive(gradients: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Gradients of what the outputs are the positive parts of; as they are where there are no such outputs."""
    return (
        [gradient * (y > 0) for gradient, y in zip(gradients, outputs, strict=True)]
        if outputs
        else gradients
    )


class Gather(torch.autograd.Function):
    """`gather` by means, or by sums, with its backward pass written out: no gradient of a mean at full size."""

    @staticmethod
    def forward(
        ctx, incidence: Incidence, reduce: Reduce, channels: int, compiled: bool, *folded: Tensor
    ):
        ctx.incidence, ctx.reduce, ctx.channels, ctx.compiled = (
            incidence,
            reduce,
            channels,
            compiled,
        )
        if not compiled:
            return tuple(incidence.gather(folded, reduce, channels))
        found = kernel.gather(incidence.program, folded, channels, reduce is mean)
        whole = {
            s: folded[i]
            for i, s in enumerate(incidence.own)
            if s and len(incidence.carriers[s]) == 1
        }
        return tuple(whole.get(s, x) for s, x in enumerate(found))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        incidence, whole = ctx.incidence, list(gradients)
        if ctx.compiled:
            found = kernel.gather_backward(
                incidence.program, gradients, ctx.channels, ctx.reduce is mean
            )
            return None, None, None, None, *found
        for s in range(len(whole)):
            moves = incidence.moves_into[s]
            terms = [
                (
                    move,
                    move.spread(whole[move.small], ctx.channels),
                    1 / move.size if ctx.reduce is mean else 1.0,
                )
                for move in moves
            ]
            if incidence.alone(s):
                whole[s] = broadcast_sum(
                    [(term, alpha) for _, term, alpha in terms], whole[s].shape
                ).add_(whole[s])
                continue
            whole[s] = whole[s].clone() if moves else whole[s]
            for move, term, alpha in terms:
                move.columns(whole[s], ctx.channels).add_(term, alpha=alpha)
        return None, None, None, None, *incidence.take(whole, ctx.channels)


def gather(
    incidence: Incidence, reduce: Reduce, channels: int, folded: Sequence[Tensor]
) -> Sequence[Tensor]:
    """`incidence.gather` for autograd, which is left to differentiate only what is not a mean or a sum."""
    if reduce in (mean, total):
        compiled = kernel.takes(folded, incidence.columns(channels))
        return Gather.apply(incidence, reduce, channels, compiled, *folded)
    return incidence.gather(folded, reduce, channels)


class Scatter(torch.autograd.Function):
    """`scatter` of features that were gathered elsewhere, for layers that do more than average them, or its positive part."""

    @staticmethod
    def forward(ctx, incidence: Incidence, out_channels: int, relu: bool, *tensors: Tensor):
        sets = len(incidence.axis_sets)
        gathered, weights, bias = tensors[:sets], tensors[sets:-1], tensors[-1]
        ctx.incidence, ctx.out_channels = incidence, out_channels
        ctx.compiled = kernel.takes(gathered, [size for weight in weights for size in weight.shape])
        if ctx.compiled:
            outputs = tuple(kernel.scatter(incidence.program, gathered, weights, bias, relu))
        else:
            outputs = scatter(
                incidence, gathered, [weight.t() for weight in weights], out_channels, bias
            )
            outputs = tuple(y.relu_() for y in outputs) if relu else outputs
        ctx.save_for_backward(*gathered, *weights, *(outputs if relu else ()))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        incidence, sets = ctx.incidence, len(ctx.incidence.axis_sets)
        saved = ctx.saved_tensors  # once: under activation checkpointing a second look fails
        gathered, weights, positive = saved[:sets], saved[sets : 2 * sets], saved[2 * sets :]
        if ctx.compiled:
            found = kernel.scatter_backward(
                incidence.program, gradients, gathered, weights, positive
            )
            return None, None, None, *found[sets + 1 :], *found[: sets + 1]
        back = incidence.gather(where_positive(gradients, positive), total, ctx.out_channels)
        to_gathered = [g @ weight for g, weight in zip(back, weights, strict=True)]
        to_weights = [outer(g, x) for g, x in zip(back, gathered, strict=True)]
        return None, None, None, *to_gathered, *to_weights, back[0].sum(0)
