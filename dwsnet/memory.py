"""Memory for the features of a layer on a CPU that is used again, as PyTorch does on a GPU.

The C library returns large blocks to the system, which clears every page that it hands out anew: that takes as long as a
fifth of the layer's own work. So what a step lets go here waits for the next step, in huge pages where there are such.
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
"""Bytes from which on a block is worth keeping: smaller ones the C library keeps."""
LINE = 64
POSIX = hasattr(mmap, "MAP_ANONYMOUS")

_free: dict[int, list[mmap.mmap]] = {}
"""What waits, by size. Tensors die on any thread, while one is made too: each step here leaves it in order."""


def empty(like: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """New tensors with the dtype and device of `like` and undefined values, in one block of memory if they are large.

    Once nothing holds any of them it waits for the next ones of its size; where none of that size waits, all that waits is
    given back, so that no more is ever held than what was in use at once.
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
        )  # not a view: those may not be changed in place in all places
        offset += size
    return result


def pytorchs(like: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The same, in memory of PyTorch's: none where `like` is a fake tensor."""
    return [like.new_empty(shape) for shape in shapes]


def _take(size: int) -> mmap.mmap:
    with suppress(KeyError, IndexError):  # none waits, or another thread took the last
        return _free[size].pop()
    _free.clear()
    # Private: what is shared with forked processes, they would write into.
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
