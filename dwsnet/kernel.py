"""The layers in compiled code, for float32 on CPUs: `kernel.cpp` and the headers beside it.

PyTorch makes a pass over all features for each sum, product and broadcast; these routines take a
few members at a time through the whole layer while they are in the cache. `program` is
`Incidence.program`, features are folded, and weights are `(columns out, columns in)`, one per axis
set.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from dwsnet.compiled import load_library
from dwsnet.memory import empty

CONSEQUENCE = "DWSNets run on this CPU by PyTorch alone, less than half as fast"
WIDEST = 4096
"""Columns of an axis set above which its matrix product dominates, and BLAS is as fast."""
VECTOR = 16
"""Columns must be a multiple of this: whole SIMD vectors."""
SIZE, PLACE, FLAG = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int


@cache
def load_kernel() -> ctypes.CDLL | None:
    """The library built from `kernel.cpp`, or None, after one warning, if it cannot be built."""
    library = load_library(Path(__file__).with_name("kernel.cpp"), CONSEQUENCE, "-fopenmp")
    if library is not None:
        begin: list[Any] = [PLACE, SIZE, PLACE, SIZE]
        library.layer.argtypes = [*begin[:3], PLACE, SIZE, PLACE, PLACE, SIZE, PLACE, PLACE, FLAG]
        back: list[Any] = [PLACE, SIZE, PLACE, PLACE, PLACE, SIZE, PLACE, PLACE, SIZE]
        library.layer_backward.argtypes = [*back, *[PLACE] * 5, FLAG]
        library.activate.argtypes = [*begin[:3], PLACE, SIZE, PLACE, FLAG]
        library.activate_backward.argtypes = [*begin[:3], PLACE, PLACE, SIZE, PLACE, PLACE, FLAG]
        library.pool.argtypes = library.activate.argtypes
        library.pool_backward.argtypes = library.activate_backward.argtypes
        library.gather.argtypes = library.gather_backward.argtypes = [*begin, PLACE, FLAG]
        library.scatter.argtypes = [PLACE, SIZE, *[PLACE] * 4, SIZE, PLACE, FLAG]
        library.scatter_backward.argtypes = [PLACE, SIZE, PLACE, SIZE, *[PLACE] * 6, FLAG]
        norm: list[Any] = [SIZE, PLACE, SIZE, *[PLACE] * 3, ctypes.c_float]
        library.norm_gelu.argtypes = [*norm, *[PLACE] * 3, FLAG]
        library.norm_gelu_backward.argtypes = [*norm, *[PLACE] * 6, FLAG]
    return library


def loaded() -> ctypes.CDLL:
    """The library, where it is known to be there."""
    library = load_kernel()
    assert library is not None
    return library


def is_there() -> bool:
    return load_kernel() is not None


# Like torch.compiler.assume_constant_result, without importing torch._dynamo: 1.2 s per process.
setattr(is_there, "_dynamo_marked_constant", True)  # noqa: B010 - functions declare no attributes


def takes(features: Sequence[Tensor], widths: Sequence[int]) -> bool:
    """Whether the kernel can run these features with matrices of these widths.

    Not for fake tensors and other subclasses, which have no memory of their own, and not under a
    dispatch mode, which records operations.
    """
    fits = all(width % VECTOR == 0 and width <= WIDEST for width in widths)
    return (
        fits
        and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in features)
        and all(type(x) in (Tensor, Parameter) for x in features)
        and (torch.compiler.is_compiling() or not torch._C._len_torch_dispatch_stack())
        and is_there()
    )


class Layout:
    """A decoded program: `numbers` for the kernel, and the shapes of folded features."""

    def __init__(self, program: tuple[int, ...]):
        self.numbers = (SIZE * len(program))(*program)
        num_sets, num_tensors, num_moves = program[:3]
        self.sets: list[tuple[tuple[int, ...], int]] = []
        """Sizes and fixed entries of each axis set, smallest first."""
        sizes = program[3 + 2 * num_sets + 3 * num_tensors + 7 * num_moves :]
        for s in range(num_sets):
            rank, sizes = sizes[0], sizes[1:]
            self.sets.append((tuple(sizes[:rank]), program[4 + 2 * s]))
            sizes = sizes[rank:]
        carried = [program[3 + 2 * num_sets + 3 * i :][:3] for i in range(num_tensors)]
        self.tensors = [(self.sets[s][0], fixed) for s, _, fixed in carried]
        """Sizes of the hidden axes and fixed entries of each tensor."""
        self.whole = {s for s, _, fixed in carried if s and fixed == self.sets[s][1]}
        """Axis sets that consist of one tensor."""

    def shapes(self, channels: int, members: Tensor) -> list[tuple[int, ...]]:
        """Shapes of the tensors' folded features, for as many members as `members` has."""
        return [(members.shape[0], *sizes, fixed * channels) for sizes, fixed in self.tensors]

    def gathered_shapes(self, channels: int, members: Tensor) -> list[tuple[int, ...]]:
        """Shapes of gathered features, empty for sets that consist of one tensor."""
        shapes = [(members.shape[0], *sizes, fixed * channels) for sizes, fixed in self.sets]
        return [(0,) if s in self.whole else shape for s, shape in enumerate(shapes)]

    def channels(self, columns: int) -> int:
        """Channels of features with this many columns in the smallest axis set."""
        return columns // self.sets[0][1]


@cache
def layout(*program: int) -> Layout:
    return Layout(program)


def places(tensors: Sequence[Tensor | None]) -> ctypes.Array:
    return (PLACE * len(tensors))(
        *[None if tensor is None else tensor.data_ptr() for tensor in tensors]
    )


def columns(weights: Sequence[Tensor]) -> ctypes.Array:
    """Columns of the gathered features that these weights take."""
    return (SIZE * len(weights))(*[weight.shape[1] for weight in weights])


def contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


def parameters(weights: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Uninitialised gradients of the weights and of the bias."""
    return [torch.empty_like(weight) for weight in weights], weights[0].new_empty(
        weights[0].shape[0]
    )


def place(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def normalised_layer(
    program: Sequence[int],
    features: Sequence[Tensor],
    coefficients: Tensor | None,
    weights: Sequence[Tensor],
    bias: Tensor,
    sums: Tensor | None,
) -> list[Tensor]:
    """The affine layer applied to GELU(a x + b), or to x without `coefficients`.

    `coefficients` `(2, tensors, channels)` are a and b. If given, `sums` `(2, tensors, channels)`
    float64 is overwritten with the sums of the outputs and of their squares.
    """
    of, features, weights = layout(*program), contiguous(features), contiguous(weights)
    after, before = map(of.channels, weights[0].shape)
    result = empty(features[0], of.shapes(after, features[0]))
    start = of.numbers, features[0].shape[0], places(features), place(coefficients), before
    loaded().layer(
        *start,
        places(weights),
        bias.contiguous().data_ptr(),
        after,
        places(result),
        place(sums),
        torch.get_num_threads(),
    )
    return result


def normalised_layer_backward(
    program: Sequence[int],
    gradients: Sequence[Tensor],
    corrections: Tensor | None,
    outputs: Sequence[Tensor],
    features: Sequence[Tensor],
    coefficients: Tensor | None,
    weights: Sequence[Tensor],
    to_features: bool,
) -> tuple[list[Tensor], Tensor | None, list[Tensor]]:
    """Gradients of the features if wanted, of the coefficients if any, of the weights and the bias.

    With `corrections` `(2, tensors, channels)` g and h, the gradients of the outputs y are
    `gradients` + g + h y.
    """
    of, gradients, features = layout(*program), contiguous(gradients), contiguous(features)
    weights, outputs = contiguous(weights), contiguous(outputs)
    after, before = map(of.channels, weights[0].shape)
    result = empty(features[0], of.shapes(before, features[0]) if to_features else [])
    to_weights, to_bias = parameters(weights)
    sums = None if coefficients is None else torch.zeros_like(coefficients, dtype=torch.float64)
    loaded().layer_backward(
        of.numbers,
        features[0].shape[0],
        places(gradients),
        place(corrections),
        places(outputs),
        after,
        places(features),
        place(coefficients),
        before,
        places(weights),
        places(result) if to_features else None,
        places(to_weights),
        to_bias.data_ptr(),
        place(sums),
        torch.get_num_threads(),
    )
    return result, sums, [*to_weights, to_bias]


def activate(
    program: Sequence[int], features: Sequence[Tensor], coefficients: Tensor
) -> list[Tensor]:
    """GELU(a x + b), with `coefficients` as in `normalised_layer`."""
    of, features, channels = layout(*program), contiguous(features), coefficients.shape[-1]
    result = empty(features[0], of.shapes(channels, features[0]))
    start = of.numbers, features[0].shape[0], places(features), coefficients.data_ptr(), channels
    loaded().activate(*start, places(result), torch.get_num_threads())
    return result


def activate_backward(
    program: Sequence[int],
    gradients: Sequence[Tensor],
    features: Sequence[Tensor],
    coefficients: Tensor,
) -> tuple[list[Tensor], Tensor]:
    """Gradients of the features and of the coefficients."""
    of, gradients, features = layout(*program), contiguous(gradients), contiguous(features)
    channels = coefficients.shape[-1]
    result = empty(features[0], of.shapes(channels, features[0]))
    sums = torch.zeros_like(coefficients, dtype=torch.float64)
    start = of.numbers, features[0].shape[0], places(gradients), places(features)
    end = coefficients.data_ptr(), channels, places(result), sums.data_ptr()
    loaded().activate_backward(*start, *end, torch.get_num_threads())
    return result, sums


def pool(program: Sequence[int], features: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    """Means of GELU(a x + b), `(batch, columns)` of the smallest axis set."""
    of, features, channels = layout(*program), contiguous(features), coefficients.shape[-1]
    result = features[0].new_empty(features[0].shape[0], of.sets[0][1] * channels)
    start = of.numbers, features[0].shape[0], places(features), coefficients.data_ptr(), channels
    loaded().pool(*start, result.data_ptr(), torch.get_num_threads())
    return result


def pool_backward(
    program: Sequence[int], gradient: Tensor, features: Sequence[Tensor], coefficients: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Gradients of the features and of the coefficients."""
    of, gradient, features = layout(*program), gradient.contiguous(), contiguous(features)
    channels = coefficients.shape[-1]
    result = empty(features[0], of.shapes(channels, features[0]))
    sums = torch.zeros_like(coefficients, dtype=torch.float64)
    start = of.numbers, features[0].shape[0], gradient.data_ptr(), places(features)
    end = coefficients.data_ptr(), channels, places(result), sums.data_ptr()
    loaded().pool_backward(*start, *end, torch.get_num_threads())
    return result, sums


def norm_gelu(features: Sequence[Tensor], *others: Sequence[Tensor] | float):
    """Write means, variances and outputs into the last of `others`: see `dwsnet.norm_gelu`."""
    loaded().norm_gelu(*normalized(features, others))


def norm_gelu_backward(features: Sequence[Tensor], *others: Sequence[Tensor] | float):
    """Write the gradients of features, gains and shifts into the last of `others`."""
    loaded().norm_gelu_backward(*normalized(features, others))


def normalized(features: Sequence[Tensor], others: Sequence[Sequence[Tensor] | float]) -> list:
    channels = features[0].shape[-1]
    rows = (SIZE * len(features))(*[x.numel() // channels for x in features])
    arguments = [other if isinstance(other, float) else places(other) for other in others]
    start = [len(features), rows, channels, places(features)]
    return [*start, *arguments, torch.get_num_threads()]
