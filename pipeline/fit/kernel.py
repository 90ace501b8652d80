"""Loads `kernel.cpp`, which fits on CPUs and is compiled at first use for this machine."""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dwsnet.compiled import load_library

SOURCE = Path(__file__).with_name("kernel.cpp")
SIZE, REAL, PLACE = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class Kernel:
    """The library built from `kernel.cpp`."""

    def __init__(self, library: ctypes.CDLL):
        self.fit = library.dwszoo_fit
        self.fit.argtypes = [
            SIZE,
            SIZE,
            PLACE,
            SIZE,
            *[PLACE] * 4,
            REAL,
            SIZE,
            PLACE,
            ctypes.c_float,
            SIZE,
            *[REAL] * 3,
        ]
        self.fit.restype = None

    def fit_members(
        self,
        sizes: tuple[int, ...],
        coordinates: Tensor,
        targets: Tensor,
        rows: Tensor,
        steps: Tensor,
        *,
        omega: float,
        rates: Tensor,
        target_psnr: float | None,
        check_every: int,
        betas: tuple[float, float],
        epsilon: float,
    ):
        """Fit `rows` `(members, parameters)` in place to `targets` `(members, channels, points)`.

        `rates` `(steps,)` float64 is the learning rate of each step. `steps` `(members,)` int64
        receives the number of Adam steps of each member. ctypes releases the GIL during the call.
        """
        check_tensors(
            "cpu",
            {
                torch.float32: (coordinates, targets, rows),
                torch.int64: (steps,),
                torch.float64: (rates,),
            },
        )
        self.fit(
            len(rows),
            len(sizes) - 1,
            (SIZE * len(sizes))(*sizes),
            len(coordinates),
            *(tensor.data_ptr() for tensor in (coordinates, targets, rows, steps)),
            omega,
            len(rates),
            rates.data_ptr(),
            float("nan") if target_psnr is None else target_psnr,
            check_every,
            *betas,
            epsilon,
        )


def check_tensors(device: str, tensors: dict[torch.dtype, tuple[Tensor, ...]]):
    """Raises ValueError if a tensor does not have the layout that compiled code reads."""
    for dtype, tensor in ((dtype, tensor) for dtype, group in tensors.items() for tensor in group):
        if not tensor.is_contiguous() or tensor.dtype != dtype or tensor.device.type != device:
            raise ValueError(
                f"the kernel takes contiguous {dtype} tensors on {device}, found {tensor.dtype} on "
                f"{tensor.device.type}"
            )


@cache
def load_kernel() -> Kernel | None:
    """The kernel, or None, after a warning, if it cannot be built."""
    library = load_library(SOURCE, "INRs are fitted by PyTorch, several times slower")
    return None if library is None else Kernel(library)
