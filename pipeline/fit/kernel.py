"""The fit on CPUs in compiled code, built at first use for the machine it runs on: `kernel.cpp`."""

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
        """Fit `rows` `(members, parameters)` in place to `targets` `(members, channels, points)`, one after the other.

        `rates` `(steps,)` float64 is the learning rate of each step. The Adam steps that each took come into `steps`
        `(members,)` int64. Other threads run meanwhile: ctypes lets the interpreter go.
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
    """Raises ValueError where a tensor is not what compiled code reads at its address."""
    for dtype, tensor in ((dtype, tensor) for dtype, group in tensors.items() for tensor in group):
        if not tensor.is_contiguous() or tensor.dtype != dtype or tensor.device.type != device:
            raise ValueError(
                f"the kernel takes contiguous {dtype} tensors on {device}, found {tensor.dtype} on {tensor.device.type}"
            )


@cache
def load_kernel() -> Kernel | None:
    """The kernel, or None after one warning where it cannot be had."""
    library = load_library(SOURCE, "INRs are fitted by PyTorch, several times slower")
    return None if library is None else Kernel(library)
