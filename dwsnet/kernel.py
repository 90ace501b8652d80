"""The passes over tensors with two hidden axes in compiled code: `kernel.cpp`, for float32 on a CPU.

Such a tensor holds nearly all of a layer's features, and reading and writing it is most of what the layer costs. PyTorch
takes a pass for each sum, each broadcast and each product; these routines take one for all that can be done at once.
Custom operators, so that torch.compile goes around them.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dwsnet.compiled import load_library

CONSEQUENCE = "DWSNets run on this CPU by PyTorch alone, about half as fast"
WIDEST = 64
"""Columns of features beyond which a product is bound by arithmetic, and the BLAS is as fast."""
LINE = 16
"""Floats of a cache line: results are written in whole ones."""
SIZE, PLACE = ctypes.c_int64, ctypes.c_void_p


@cache
def load_kernel() -> ctypes.CDLL | None:
    """The library built from `kernel.cpp`, or None after one warning where it cannot be had."""
    library = load_library(Path(__file__).with_name("kernel.cpp"), CONSEQUENCE, "-fopenmp")
    if library is not None:
        library.sum_both.argtypes = [PLACE, *[SIZE] * 4, PLACE, PLACE, ctypes.c_int]
        library.affine.argtypes = [PLACE, *[SIZE] * 4, PLACE, SIZE, *[PLACE] * 3, ctypes.c_int]
        library.affine_backward.argtypes = [PLACE, *[SIZE] * 4, PLACE, SIZE, *[PLACE] * 5, ctypes.c_int]
    return library


@torch.compiler.assume_constant_result
def is_there() -> bool:
    return load_kernel() is not None


def takes(features: Tensor, out: int = LINE) -> bool:
    """Whether the kernel is there for such features `(members, rows, columns, channels)` and as many channels out."""
    fits = features.ndim == 4 and out % LINE == 0 and max(features.shape[-1], out) <= WIDEST
    return fits and features.device.type == "cpu" and features.dtype == torch.float32 and is_there()


def places(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


@torch.library.custom_op("dwsnet::sum_both", mutates_args=(), device_types="cpu")
def sum_both(features: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of `(members, rows, columns, channels)` over the rows and over the columns."""
    features = features.contiguous()
    sums = features.new_empty(features[:, 0].shape), features.new_empty(features[:, :, 0].shape)
    load_kernel().sum_both(*places(features), *features.shape, *places(*sums), torch.get_num_threads())
    return sums


@sum_both.register_fake
def _(features):
    return features.new_empty(features[:, 0].shape), features.new_empty(features[:, :, 0].shape)


@torch.library.custom_op("dwsnet::affine", mutates_args=(), device_types="cpu")
def affine(features: Tensor, matrix: Tensor, row_terms: Tensor, column_terms: Tensor) -> Tensor:
    """`features @ matrix` plus a term for each row `(members, rows, out)` and each column `(members, columns, out)`."""
    features, matrix, *terms = (x.contiguous() for x in (features, matrix, row_terms, column_terms))
    result = features.new_empty(*features.shape[:-1], matrix.shape[1])
    shape = [*features.shape, matrix.data_ptr(), matrix.shape[1]]
    load_kernel().affine(*places(features), *shape, *places(*terms, result), torch.get_num_threads())
    return result


@affine.register_fake
def _(features, matrix, row_terms, column_terms):
    return features.new_empty(*features.shape[:-1], matrix.shape[1])


@torch.library.custom_op("dwsnet::affine_backward", mutates_args=(), device_types="cpu")
def affine_backward(
    gradient: Tensor, matrix: Tensor, row_terms: Tensor, column_terms: Tensor, features: Tensor
) -> tuple[Tensor, Tensor]:
    """`affine` of the gradient, and the sum over members and positions of the outer products of gradient and features."""
    threads = torch.get_num_threads()
    gradient, matrix, *rest = (x.contiguous() for x in (gradient, matrix, row_terms, column_terms, features))
    result = gradient.new_empty(features.shape)
    outer = gradient.new_empty(threads, *matrix.shape)
    shape = [*gradient.shape, matrix.data_ptr(), matrix.shape[1]]
    load_kernel().affine_backward(*places(gradient), *shape, *places(*rest, result, outer), threads)
    return result, outer.sum(0)


@affine_backward.register_fake
def _(gradient, matrix, row_terms, column_terms, features):
    return gradient.new_empty(features.shape), gradient.new_empty(matrix.shape)
