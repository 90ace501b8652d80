"""The map that all layers are built from, and its derivative: gather, multiply, scatter.

It is compiled if `dwsnet.kernel` takes the features, and runs in PyTorch otherwise: on GPUs, in
float64 and under autocast. Each half has a plain twin for all derivatives but the first in reverse
mode (`dwsnet.derivatives`).
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from dwsnet import kernel, operators
from dwsnet.derivatives import gradients_of, is_transformed, wants_more
from dwsnet.incidence import Incidence, Move, Reduce, mean, total

Term = tuple[Move, Tensor, float]
"""A move, the features that it spreads (size 1 along the added axis), and their factor."""


def plain_scatter(incidence: Incidence, channels: int, *tensors: Tensor) -> Sequence[Tensor]:
    """`Scatter` out of place: each set's product, plus what smaller sets spread to it."""
    sets = len(incidence.axis_sets)
    gathered, weights, bias = tensors[:sets], tensors[sets:-1], tensors[-1]
    mapped: list[Tensor] = []
    for s, (x, weight) in enumerate(zip(gathered, weights, strict=True)):
        y = F.linear(x, weight, None if s else bias)
        for move in incidence.moves_into[s]:
            before, width = move.start_large * channels, move.width * channels
            term = move.spread(mapped[move.small], channels)
            y = y + F.pad(term, (before, y.shape[-1] - before - width))
        mapped.append(y)
    return incidence.take(mapped, channels)


def scatter(
    incidence: Incidence,
    gathered: Sequence[Tensor],
    weights: Sequence[Tensor],
    channels: int,
    bias: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Multiply gathered features by their `(in, out)` matrices, spread along pooled axes, and sum.

    With a bias this is the layer. Without one it is the layer's transpose: the transpose of a mean
    is a repeat divided by the count. Small terms come first, so that a tensor that is the only
    carrier of its hidden axes takes one pass.
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
    """The sum of all terms times their factors, in new memory of this shape."""
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
    """The sum over members and positions of outer products, `(left width, right width)`.

    Computed member by member if that takes no more memory than the input: many tall products are
    faster than one.
    """
    left, right = left.unsqueeze(1), right.unsqueeze(1)
    if left[0, ..., 0].numel() < max(left.shape[-1], right.shape[-1]):
        return left.flatten(0, -2).t() @ right.flatten(0, -2)
    return torch.bmm(left.flatten(1, -2).transpose(1, 2), right.flatten(1, -2)).sum(0)


def plain_gather(incidence: Incidence, channels: int, *folded: Tensor) -> list[Tensor]:
    return incidence.gather(folded, mean, channels)


class Gather(torch.autograd.Function):
    """`gather` by means with an explicit backward pass, without full-size gradients of means."""

    @staticmethod
    def forward(ctx, incidence: Incidence, channels: int, compiled: bool, *folded: Tensor):
        ctx.incidence, ctx.channels, ctx.compiled = incidence, channels, compiled
        ctx.save_for_backward(*folded)
        if not compiled:
            return tuple(incidence.gather(folded, mean, channels))
        found = operators.gather(incidence.program, folded, channels)
        whole = {
            s: folded[i]
            for i, s in enumerate(incidence.own)
            if s and len(incidence.carriers[s]) == 1
        }
        return tuple(whole.get(s, x) for s, x in enumerate(found))

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        incidence, channels = ctx.incidence, ctx.channels
        if wants_more(gradients):
            plain = partial(plain_gather, incidence, channels)
            return None, None, None, *gradients_of(plain, ctx.saved_tensors, gradients)
        if ctx.compiled:
            found = operators.gather_backward(incidence.program, gradients, channels)
            return None, None, None, *found
        return None, None, None, *gather_backward(incidence, channels, gradients)


def gather_backward(
    incidence: Incidence, channels: int, gradients: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Gradients of the features from those of their means."""
    whole = list(gradients)
    for s in range(len(whole)):
        moves = incidence.moves_into[s]
        terms = [(move, move.spread(whole[move.small], channels), 1 / move.size) for move in moves]
        if incidence.alone(s):
            spread = [(term, alpha) for _, term, alpha in terms]
            whole[s] = broadcast_sum(spread, whole[s].shape).add_(whole[s])
            continue
        whole[s] = whole[s].clone() if moves else whole[s]
        for move, term, alpha in terms:
            move.columns(whole[s], channels).add_(term, alpha=alpha)
    return incidence.take(whole, channels)


def gather(
    incidence: Incidence, reduce: Reduce, channels: int, folded: Sequence[Tensor]
) -> Sequence[Tensor]:
    """`incidence.gather` for autograd, which differentiates only poolings other than means."""
    if reduce is mean and not is_transformed():
        compiled = kernel.takes(folded, incidence.columns(channels))
        return Gather.apply(incidence, channels, compiled, *folded)
    return incidence.gather(folded, reduce, channels)


class Scatter(torch.autograd.Function):
    """`scatter` for layers that do more than average between gathering and scattering."""

    @staticmethod
    def forward(ctx, incidence: Incidence, out_channels: int, *tensors: Tensor):
        sets = len(incidence.axis_sets)
        gathered, weights, bias = tensors[:sets], tensors[sets:-1], tensors[-1]
        ctx.incidence, ctx.out_channels = incidence, out_channels
        ctx.compiled = kernel.takes(gathered, [size for weight in weights for size in weight.shape])
        if ctx.compiled:
            outputs = tuple(operators.scatter(incidence.program, gathered, weights, bias))
        else:
            outputs = scatter(
                incidence, gathered, [weight.t() for weight in weights], out_channels, bias
            )
        ctx.save_for_backward(*tensors)
        return outputs

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        incidence, sets = ctx.incidence, len(ctx.incidence.axis_sets)
        inputs = ctx.saved_tensors  # once: a second access fails under checkpointing
        if wants_more(gradients):
            plain = partial(plain_scatter, incidence, ctx.out_channels)
            return None, None, *gradients_of(plain, inputs, gradients)
        gathered, weights = inputs[:sets], inputs[sets:-1]
        if ctx.compiled:
            found = operators.scatter_backward(incidence.program, gradients, gathered, weights)
            return None, None, *found[sets + 1 :], *found[: sets + 1]
        back = incidence.gather(gradients, total, ctx.out_channels)
        to_gathered = [g @ weight for g, weight in zip(back, weights, strict=True)]
        to_weights = [outer(g, x) for g, x in zip(back, gathered, strict=True)]
        return None, None, *to_gathered, *to_weights, back[0].sum(0)


def apply_scatter(incidence: Incidence, out_channels: int, *tensors: Tensor) -> Sequence[Tensor]:
    """Apply `Scatter`, or its plain twin, to gathered features, weights and bias."""
    function = plain_scatter if is_transformed() else Scatter.apply
    return function(incidence, out_channels, *tensors)
