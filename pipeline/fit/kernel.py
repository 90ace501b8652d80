"""The fit in compiled code: `kernel.cpp`, built at first use for the machine it runs on."""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernel.cpp")
FLAGS = ("-std=c++2a", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
COMPILERS = ("c++", "g++", "clang++")
SIZE, REAL, PLACE = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p

logger = logging.getLogger(__name__)


class Kernel:
    """The library built from `kernel.cpp`. Raises OSError where it cannot be loaded."""

    def __init__(self, path: Path):
        self.fit = ctypes.CDLL(str(path)).dwszoo_fit
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
    try:
        return Kernel(_build(_compiler()))
    except (OSError, subprocess.SubprocessError) as problem:
        reason = problem.stderr.strip() if isinstance(problem, subprocess.CalledProcessError) else problem
        logger.warning(
            "INRs are fitted by PyTorch, several times slower, for the compiled kernel could not be built: %s. "
            "Install a C++ compiler (GCC 10 or Clang 10 or newer: `apt install g++`, `dnf install gcc-c++`, "
            "`xcode-select --install`, `conda install cxx-compiler`).",
            reason,
        )
        return None


def _compiler() -> str:
    for name in COMPILERS:
        if path := shutil.which(name):
            return path
    raise FileNotFoundError(f"none of {', '.join(COMPILERS)} is on the PATH")


def _build(compiler: str) -> Path:
    """The library in the user's cache, built if it is not there yet.

    Its name is a digest of the source, the flags and all that the compiler defines here (its version, the machine's
    instructions), so that machines of several kinds may share the folder. Whoever builds at the same time builds the same.
    """
    command = [compiler, *FLAGS]
    defines = subprocess.run([*command, "-dM", "-E", "-x", "c++", os.devnull], check=True, capture_output=True, text=True)
    digest = hashlib.sha256(SOURCE.read_bytes() + repr(FLAGS).encode() + defines.stdout.encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dwszoo"
    library = folder / f"fit-{digest[:16]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / library.name
            subprocess.run([*command, str(SOURCE), "-o", str(built)], check=True, capture_output=True, text=True)
            built.replace(library)
    return library
