"""A caching allocator for the features of layers on CPUs, like PyTorch's on GPUs.

The C library returns large blocks to the system, which zeroes every page it hands out again; that
takes a fifth as long as the layer's own work. Here a freed block is kept for the next step, in huge
pages where the system has them.
"""

import ctypes
import math
import mmap
import weakref
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

LEAST = 1 << 17
"""Smallest block worth keeping, in bytes; the C library keeps smaller ones."""
LINE = 64
POSIX = hasattr(mmap, "MAP_ANONYMOUS")

_free: dict[int, list[mmap.mmap]] = {}
"""Free blocks by size. Tensors can be freed on any thread, also during an allocation, so every
operation on it is atomic."""


def empty(like: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Uninitialised tensors with the dtype and device of `like`, in one block if they are large.

    Once none of them is referenced, the block is free for the next ones of its size. If no free
    block has the size, all free blocks are released, so that no more memory is held than was in use
    at once.
    """
    sizes = [-(-math.prod(shape) * like.itemsize // LINE) * LINE for shape in shapes]
    total = sum(sizes)
    if (
        total < LEAST
        or like.dtype != torch.float32
        or like.device.type != "cpu"
        or torch.compiler.is_compiling()
    ):
        return pytorchs(like, shapes)
    block = _take(total)
    owner = (ctypes.c_char * len(block)).from_buffer(block)
    weakref.finalize(owner, _give_back, block).atexit = False
    result, offset = [], 0
    for shape, size in zip(shapes, sizes, strict=True):
        count = math.prod(shape)
        values = (
            torch.frombuffer(owner, dtype=like.dtype, count=count, offset=offset)
            if count
            else like.new_empty(0)
        )
        result.append(
            values.resize_(shape)
        )  # not a view: views cannot be modified in place everywhere
        offset += size
    return result


def pytorchs(like: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The same, allocated by PyTorch, without memory if `like` is a fake tensor."""
    return [like.new_empty(shape) for shape in shapes]


def _take(size: int) -> mmap.mmap:
    with suppress(KeyError, IndexError):  # none is free, or another thread took the last
        return _free[size].pop()
    _free.clear()
    # Private, as forked processes would write into shared memory.
    block = (
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if POSIX
        else mmap.mmap(-1, size)
    )
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _give_back(block: mmap.mmap):
    _free.setdefault(len(block), []).append(block)
