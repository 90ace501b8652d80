"""Compiled layers and their halves as custom operators for torch.compile."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from dwsnet import kernel
from dwsnet.memory import empty, pytorchs


def operator(function: Callable) -> Any:
    """Make a function a custom operator under torch.compile; eager calls avoid its dispatch.

    The result has the operator's `register_fake`.
    """
    registered = torch.library.custom_op(
        f"dwsnet::{function.__name__}", function, mutates_args=(), device_types="cpu"
    )

    @wraps(function)
    def call(*arguments):
        return (registered if torch.compiler.is_compiling() else function)(*arguments)

    vars(call)["register_fake"] = registered.register_fake
    return call


@operator
def layer(
    program: Sequence[int], features: Sequence[Tensor], weights: Sequence[Tensor], bias: Tensor
) -> list[Tensor]:
    """The affine layer."""
    return kernel.normalised_layer(program, features, None, weights, bias, None)


def outputs_like(program, inputs, weights, bias) -> list[Tensor]:
    """Tensors of the shapes of a layer's outputs, for torch.compile."""
    of = kernel.layout(*program)
    return pytorchs(inputs[0], of.shapes(of.channels(weights[0].shape[0]), inputs[0]))


layer.register_fake(outputs_like)


@operator
def layer_backward(
    program: Sequence[int],
    gradients: Sequence[Tensor],
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    to_features: bool,
) -> list[Tensor]:
    """Gradients of the weights, the bias and, with `to_features`, the features."""
    result, _, to_parameters = kernel.normalised_layer_backward(
        program, gradients, None, gradients, features, None, weights, to_features
    )
    return [*to_parameters, *result]


@layer_backward.register_fake
def _(program, gradients, features, weights, to_features):
    of, (to_weights, to_bias) = kernel.layout(*program), kernel.parameters(weights)
    shapes = of.shapes(of.channels(weights[0].shape[1]), features[0]) if to_features else []
    return [*to_weights, to_bias, *pytorchs(features[0], shapes)]


@operator
def gather(program: Sequence[int], features: Sequence[Tensor], channels: int) -> list[Tensor]:
    """Features of each axis set gathered by means, empty for a set that consists of one tensor."""
    of, features = kernel.layout(*program), kernel.contiguous(features)
    result = empty(features[0], of.gathered_shapes(channels, features[0]))
    found = kernel.places([tensor if tensor.numel() else None for tensor in result])
    kernel.loaded().gather(
        of.numbers,
        features[0].shape[0],
        kernel.places(features),
        channels,
        found,
        torch.get_num_threads(),
    )
    return result


@gather.register_fake
def _(program, features, channels):
    return pytorchs(features[0], kernel.layout(*program).gathered_shapes(channels, features[0]))


@operator
def gather_backward(
    program: Sequence[int], gradients: Sequence[Tensor], channels: int
) -> list[Tensor]:
    """Gradients of the features from those of the gathered features."""
    of, gradients = kernel.layout(*program), kernel.contiguous(gradients)
    result = empty(gradients[0], of.shapes(channels, gradients[0]))
    start = of.numbers, gradients[0].shape[0], kernel.places(gradients)
    kernel.loaded().gather_backward(
        *start, channels, kernel.places(result), torch.get_num_threads()
    )
    return result


@gather_backward.register_fake
def _(program, gradients, channels):
    return pytorchs(gradients[0], kernel.layout(*program).shapes(channels, gradients[0]))


@operator
def scatter(
    program: Sequence[int],
    gathered: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor,
) -> list[Tensor]:
    """Gathered features times their weights, spread and summed."""
    of, gathered, weights, bias = (
        kernel.layout(*program),
        kernel.contiguous(gathered),
        kernel.contiguous(weights),
        bias.contiguous(),
    )
    after = of.channels(weights[0].shape[0])
    result = empty(gathered[0], of.shapes(after, gathered[0]))
    start = (
        of.numbers,
        gathered[0].shape[0],
        kernel.places(gathered),
        kernel.columns(weights),
        kernel.places(weights),
        bias.data_ptr(),
    )
    kernel.loaded().scatter(*start, after, kernel.places(result), torch.get_num_threads())
    return result


scatter.register_fake(outputs_like)


@operator
def scatter_backward(
    program: Sequence[int],
    gradients: Sequence[Tensor],
    gathered: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> list[Tensor]:
    """Gradients of the weights, the bias and the gathered features."""
    of, gradients, gathered, weights = (
        kernel.layout(*program),
        kernel.contiguous(gradients),
        kernel.contiguous(gathered),
        kernel.contiguous(weights),
    )
    result = empty(gathered[0], [x.shape for x in gathered])
    to_weights, to_bias = kernel.parameters(weights)
    start = of.numbers, gradients[0].shape[0], kernel.places(gradients)
    middle = (
        of.channels(weights[0].shape[0]),
        kernel.places(gathered),
        kernel.columns(weights),
        kernel.places(weights),
        kernel.places(result),
    )
    kernel.loaded().scatter_backward(
        *start, *middle, kernel.places(to_weights), to_bias.data_ptr(), torch.get_num_threads()
    )
    return [*to_weights, to_bias, *result]


@scatter_backward.register_fake
def _(program, gradients, gathered, weights):
    to_weights, to_bias = kernel.parameters(weights)
    return [*to_weights, to_bias, *(torch.empty_like(x) for x in gathered)]
