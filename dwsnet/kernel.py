"""The layers in compiled code, for float32 on a CPU: `kernel.cpp`, with `members.h` and `products.h`.

PyTorch takes a pass over all features for each sum, product and broadcast; these routines take a few members at a time
through the whole layer while they are in the cache. Custom operators, so that torch.compile goes around them. `program`
is `Incidence.program`; features are folded; matrices are `(columns in, columns out)`, one for each axis set.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dwsnet.compiled import load_library

CONSEQUENCE = "DWSNets run on this CPU by PyTorch alone, about a third as fast"
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


class Sums:
    """For each thread a place where it adds up the gradients of the matrices and the bias."""

    def __init__(self, shapes: Sequence[Sequence[int]], columns: int):
        self.threads = torch.get_num_threads()
        self.matrices = [torch.zeros(self.threads, *shape) for shape in shapes]
        self.bias = torch.zeros(self.threads, columns)
        self.places = places([matrix[thread] for thread in range(self.threads) for matrix in self.matrices])

    def total(self) -> list[Tensor]:
        return [partial.sum(0) for partial in (*self.matrices, self.bias)]


@torch.library.custom_op("dwsnet::layer", mutates_args=(), device_types="cpu")
def layer(
    program: Sequence[int], features: Sequence[Tensor], matrices: Sequence[Tensor], bias: Tensor, relu: bool
) -> list[Tensor]:
    """The affine layer or, with `relu`, its positive part."""
    features, matrices, bias = contiguous(features), contiguous(matrices), bias.contiguous()
    before, after = (size // program[4] for size in matrices[0].shape)
    result = room(program, after, features[0])
    start = numbers(program), len(features[0]), places(features), before, places(matrices), bias.data_ptr()
    load_kernel().layer(*start, after, places(result), relu, torch.get_num_threads())
    return result


@layer.register_fake
def _(program, features, matrices, bias, relu):
    return room(program, matrices[0].shape[1] // program[4], features[0])


@torch.library.custom_op("dwsnet::layer_backward", mutates_args=(), device_types="cpu")
def layer_backward(
    program: Sequence[int],
    gradients: Sequence[Tensor],
    features: Sequence[Tensor],
    transposed: Sequence[Tensor],
    positive: Sequence[Tensor],
    to_features: bool,
) -> list[Tensor]:
    """Gradients of the matrices, the bias and, with `to_features`, the features, by the transposed matrices.

    `positive` are the layer's outputs where they are positive parts, else none.
    """
    gradients, features, transposed = contiguous(gradients), contiguous(features), contiguous(transposed)
    signs = contiguous(positive)
    after, before = (size // program[4] for size in transposed[0].shape)
    result = room(program, before, features[0]) if to_features else []
    sums = Sums([matrix.shape[::-1] for matrix in transposed], len(transposed[0]))
    start = numbers(program), len(features[0]), places(gradients), places(signs) if signs else None, after
    end = places(transposed), places(result) if to_features else None, sums.places, sums.bias.data_ptr(), sums.threads
    load_kernel().layer_backward(*start, places(features), before, *end)
    return [*sums.total(), *result]


def parameters(transposed: Sequence[Tensor]) -> list[Tensor]:
    """Tensors like the matrices, transposed, and the bias."""
    return [matrix.new_empty(matrix.shape[::-1]) for matrix in transposed] + [transposed[0].new_empty(len(transposed[0]))]


@layer_backward.register_fake
def _(program, gradients, features, transposed, positive, to_features):
    before = transposed[0].shape[1] // program[4]
    return parameters(transposed) + (room(program, before, features[0]) if to_features else [])


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
    program: Sequence[int], gathered: Sequence[Tensor], matrices: Sequence[Tensor], bias: Tensor, relu: bool
) -> list[Tensor]:
    """Gathered features times their matrices, spread and summed, or with `relu` the positive part of that."""
    gathered, matrices, bias = contiguous(gathered), contiguous(matrices), bias.contiguous()
    after = matrices[0].shape[1] // program[4]
    result = room(program, after, gathered[0])
    start = numbers(program), len(gathered[0]), places(gathered), numbers([len(matrix) for matrix in matrices])
    end = places(matrices), bias.data_ptr(), after, places(result), relu, torch.get_num_threads()
    load_kernel().scatter(*start, *end)
    return result


@scatter.register_fake
def _(program, gathered, matrices, bias, relu):
    return room(program, matrices[0].shape[1] // program[4], gathered[0])


@torch.library.custom_op("dwsnet::scatter_backward", mutates_args=(), device_types="cpu")
def scatter_backward(
    program: Sequence[int],
    gradients: Sequence[Tensor],
    gathered: Sequence[Tensor],
    transposed: Sequence[Tensor],
    positive: Sequence[Tensor],
) -> list[Tensor]:
    """Gradients of the matrices, the bias and the gathered features; arguments as of `layer_backward`."""
    gradients, gathered, transposed = contiguous(gradients), contiguous(gathered), contiguous(transposed)
    result, signs = [torch.empty_like(x) for x in gathered], contiguous(positive)
    sums = Sums([matrix.shape[::-1] for matrix in transposed], len(transposed[0]))
    start = numbers(program), len(gradients[0]), places(gradients), places(signs) if signs else None
    depths = numbers([matrix.shape[1] for matrix in transposed])
    middle = len(transposed[0]) // program[4], places(gathered), depths, places(transposed), places(result)
    load_kernel().scatter_backward(*start, *middle, sums.places, sums.bias.data_ptr(), sums.threads)
    return [*sums.total(), *result]


@scatter_backward.register_fake
def _(program, gradients, gathered, transposed, positive):
    return [*parameters(transposed), *(torch.empty_like(x) for x in gathered)]
