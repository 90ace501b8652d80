"""The fit in compiled code: `kernel.cpp`, built at first use for the machine it runs on."""

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
        self.fit.argtypes = [SIZE, SIZE, PLACE, SIZE, *[PLACE] * 4, REAL, SIZE, ctypes.c_float, SIZE, *[REAL] * 4]
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
        max_steps: int,
        target_psnr: float | None,
        check_every: int,
        learning_rate: float,
        betas: tuple[float, float],
        epsilon: float,
    ):
        """Fit `rows` `(members, parameters)` in place to `targets` `(members, channels, points)`, one after the other.

        The Adam steps that each took come into `steps` `(members,)` int64. Other threads run meanwhile: ctypes lets the
        interpreter go.
        """
        for tensor in (coordinates, targets, rows, steps):
            dtype = torch.int64 if tensor is steps else torch.float32
            if not tensor.is_contiguous() or tensor.dtype != dtype or tensor.device.type != "cpu":
                raise ValueError(f"the kernel takes contiguous {dtype} tensors on the CPU, found {tensor.dtype}")
        self.fit(
            len(rows),
            len(sizes) - 1,
            (SIZE * len(sizes))(*sizes),
            len(coordinates),
            *(tensor.data_ptr() for tensor in (coordinates, targets, rows, steps)),
            omega,
            max_steps,
            float("nan") if target_psnr is None else target_psnr,
            check_every,
            learning_rate,
            *betas,
            epsilon,
        )


@cache
def load_kernel() -> Kernel | None:
    """The kernel, or None after one warning where it cannot be had."""
    library = load_library(SOURCE, "INRs are fitted by PyTorch, several times slower")
    return None if library is None else Kernel(library)
