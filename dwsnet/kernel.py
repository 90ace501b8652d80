"""The layers in compiled code, for float32 on a CPU: `kernel.cpp`, with `members.h` and `products.h`.

PyTorch takes a pass over all features for each sum, product and broadcast; these routines take a few members at a time
through the whole layer while they are in the cache. Custom operators, so that torch.compile goes around them. `program`
is `Incidence.program`; features are folded; weights are `(columns out, columns in)`, one for each axis set.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dwsnet.compiled import load_library

CONSEQUENCE = "DWSNets run on this CPU by PyTorch alone, about half as fast"
WIDEST = 4096
"""Columns of an axis set beyond which its matrix is all the work, and the BLAS is as fast."""
VECTOR = 16
"""Columns come in whole vectors."""
SIZE, PLACE, FLAG = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int


@cache
def load_kernel() -> ctypes.CDLL | None:
    """The library built from `kernel.cpp`, or None after one warning where it cannot be had."""
    library = load_library(Path(__file__).with_name("kernel.cpp"), CONSEQUENCE, "-fopenmp")
    if library is not None:
        begin = [PLACE, SIZE, PLACE, SIZE]
        library.layer.argtypes = [*begin, PLACE, PLACE, SIZE, PLACE, FLAG, FLAG]
        library.layer_backward.argtypes = [PLACE, SIZE, PLACE, PLACE, SIZE, PLACE, SIZE, *[PLACE] * 4, FLAG]
        library.gather.argtypes = library.gather_backward.argtypes = [*begin, FLAG, PLACE, FLAG]
        library.scatter.argtypes = [PLACE, SIZE, *[PLACE] * 4, SIZE, PLACE, FLAG, FLAG]
        library.scatter_backward.argtypes = [PLACE, SIZE, PLACE, PLACE, SIZE, *[PLACE] * 6, FLAG]
    return library


def is_there() -> bool:
    return load_kernel() is not None


# What torch.compiler.assume_constant_result does, without the import of torch._dynamo, 1.2 s in every process.
is_there._dynamo_marked_constant = True


def takes(features: Sequence[Tensor], widths: Sequence[int]) -> bool:
    """Whether the kernel is there for such features and for matrices with so many columns on either side."""
    fits = all(width % VECTOR == 0 and width <= WIDEST for width in widths)
    return fits and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in features) and is_there()


def places(tensors: Sequence[Tensor | None]) -> ctypes.Array:
    return (PLACE * len(tensors))(*(None if tensor is None else tensor.data_ptr() for tensor in tensors))


def numbers(values: Sequence[int]) -> ctypes.Array:
    return (SIZE * len(values))(*values)


def contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


def axis_sets(program: Sequence[int]) -> list[tuple[tuple[int, ...], int]]:
    """Sizes and fixed entries of each axis set, the smallest first."""
    sizes = program[3 + 2 * program[0] + 3 * program[1] + 7 * program[2] :]
    found = []
    for s in range(program[0]):
        rank = sizes[0]
        found.append((tuple(sizes[1 : 1 + rank]), program[4 + 2 * s]))
        sizes = sizes[1 + rank :]
    return found


def carried(program: Sequence[int]) -> list[Sequence[int]]:
    """For each tensor its axis set, its place in it and its fixed entries."""
    begin = 3 + 2 * program[0]
    return [program[begin + 3 * i : begin + 3 * i + 3] for i in range(program[1])]


def room(program: Sequence[int], channels: int, members: Tensor) -> list[Tensor]:
    """New memory for the folded features of each tensor, for as many members as the given features have."""
    sets = axis_sets(program)
    return [members.new_empty(len(members), *sets[s][0], fixed * channels) for s, _, fixed in carried(program)]


@torch.library.custom_op("dwsnet::layer", mutates_args=(), device_types="cpu")
def layer(
    program: Sequence[int], features: Sequence[Tensor], weights: Sequence[Tensor], bias: Tensor, relu: bool
) -> list[Tensor]:
    """The affine layer or, with `relu`, its positive part."""
    features, weights, bias = contiguous(features), contiguous(weights), bias.contiguous()
    after, before = (size // program[4] for size in weights[0].shape)
    result = room(program, after, features[0])
    start = numbers(program), len(features[0]), places(features), before, places(weights), bias.data_ptr()
    load_kernel().layer(*start, after, places(result), relu, torch.get_num_threads())
    return result


@layer.register_fake
def _(program, features, weights, bias, relu):
    return room(program, len(weights[0]) // program[4], features[0])


@torch.library.custom_op("dwsnet::layer_backward", mutates_args=(), device_types="cpu")
def layer_backward(
    program: Sequence[int],
    gradients: Sequence[Tensor],
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    positive: Sequence[Tensor],
    to_features: bool,
) -> list[Tensor]:
    """Gradients of the weights, the bias and, with `to_features`, the features.

    `positive` are the layer's outputs where they are positive parts, else none.
    """
    gradients, features, weights = contiguous(gradients), contiguous(features), contiguous(weights)
    after, before = (size // program[4] for size in weights[0].shape)
    signs, result = contiguous(positive), room(program, before, features[0]) if to_features else []
    to_weights, to_bias = parameters(weights)
    start = numbers(program), len(features[0]), places(gradients), places(signs) if signs else None, after
    end = places(weights), places(result) if to_features else None, places(to_weights), to_bias.data_ptr()
    load_kernel().layer_backward(*start, places(features), before, *end, torch.get_num_threads())
    return [*to_weights, to_bias, *result]


def parameters(weights: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Room for the gradients of the weights and of the bias."""
    return [torch.empty_like(weight) for weight in weights], weights[0].new_empty(len(weights[0]))


@layer_backward.register_fake
def _(program, gradients, features, weights, positive, to_features):
    to_weights, to_bias = parameters(weights)
    result = room(program, weights[0].shape[1] // program[4], features[0]) if to_features else []
    return [*to_weights, to_bias, *result]


def gathered_room(program: Sequence[int], features: Sequence[Tensor], channels: int, mean: bool) -> list[Tensor]:
    sets = axis_sets(program)
    whole = {s for s, _, fixed in carried(program) if s and fixed == sets[s][1]}
    return [
        features[0].new_empty((0,) if s in whole else (len(features[0]), *sizes, fixed * channels))
        for s, (sizes, fixed) in enumerate(sets)
    ]


@torch.library.custom_op("dwsnet::gather", mutates_args=(), device_types="cpu")
def gather(program: Sequence[int], features: Sequence[Tensor], channels: int, mean: bool) -> list[Tensor]:
    """Gathered features of each axis set, empty for a set that is one tensor."""
    features, result = contiguous(features), gathered_room(program, features, channels, mean)
    found = places([tensor if tensor.numel() else None for tensor in result])
    load_kernel().gather(numbers(program), len(features[0]), places(features), channels, mean, found, torch.get_num_threads())
    return result


gather.register_fake(gathered_room)


@torch.library.custom_op("dwsnet::gather_backward", mutates_args=(), device_types="cpu")
def gather_backward(program: Sequence[int], gradients: Sequence[Tensor], channels: int, mean: bool) -> list[Tensor]:
    """Gradients of the features from those of what was gathered."""
    gradients, result = contiguous(gradients), room(program, channels, gradients[0])
    load_kernel().gather_backward(
        numbers(program), len(gradients[0]), places(gradients), channels, mean, places(result), torch.get_num_threads()
    )
    return result


@gather_backward.register_fake
def _(program, gradients, channels, mean):
    return room(program, channels, gradients[0])


@torch.library.custom_op("dwsnet::scatter", mutates_args=(), device_types="cpu")
def scatter(
    program: Sequence[int], gathered: Sequence[Tensor], weights: Sequence[Tensor], bias: Tensor, relu: bool
) -> list[Tensor]:
    """Gathered features times their weights, spread and summed, or with `relu` the positive part of that."""
    gathered, weights, bias = contiguous(gathered), contiguous(weights), bias.contiguous()
    after = len(weights[0]) // program[4]
    result = room(program, after, gathered[0])
    depths = numbers([weight.shape[1] for weight in weights])
    start = numbers(program), len(gathered[0]), places(gathered), depths, places(weights), bias.data_ptr()
    load_kernel().scatter(*start, after, places(result), relu, torch.get_num_threads())
    return result


@scatter.register_fake
def _(program, gathered, weights, bias, relu):
    return room(program, len(weights[0]) // program[4], gathered[0])


@torch.library.custom_op("dwsnet::scatter_backward", mutates_args=(), device_types="cpu")
def scatter_backward(
    program: Sequence[int],
    gradients: Sequence[Tensor],
    gathered: Sequence[Tensor],
    weights: Sequence[Tensor],
    positive: Sequence[Tensor],
) -> list[Tensor]:
    """Gradients of the weights, the bias and the gathered features; `positive` is that of `layer_backward`."""
    gradients, gathered, weights = contiguous(gradients), contiguous(gathered), contiguous(weights)
    signs, result = contiguous(positive), [torch.empty_like(x) for x in gathered]
    to_weights, to_bias = parameters(weights)
    start = numbers(program), len(gradients[0]), places(gradients), places(signs) if signs else None
    depths = numbers([weight.shape[1] for weight in weights])
    middle = len(weights[0]) // program[4], places(gathered), depths, places(weights), places(result)
    load_kernel().scatter_backward(*start, *middle, places(to_weights), to_bias.data_ptr(), torch.get_num_threads())
    return [*to_weights, to_bias, *result]


@scatter_backward.register_fake
def _(program, gradients, gathered, weights, positive):
    to_weights, to_bias = parameters(weights)
    return [*to_weights, to_bias, *(torch.empty_like(x) for x in gathered)]
