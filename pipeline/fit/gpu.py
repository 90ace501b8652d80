"""The fit on GPUs in compiled code, built at first use: `triton_kernel`, where Triton and the nets are such that it can."""

import logging
import subprocess
from collections.abc import Callable
from functools import cache

logger = logging.getLogger(__name__)


@cache
def load_gpu_kernel(sizes: tuple[int, ...]) -> Callable[..., None] | None:
    """What fits nets of these sizes as `Kernel.fit_members` does, on a GPU; None after one warning where nothing can."""
    try:
        from pipeline.fit import triton_kernel

        problem = triton_kernel.why_not(sizes, *triton_kernel.gpu())
    except ImportError as error:
        problem = f"Triton, which comes with CUDA builds of torch, is not there ({error})"
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        problem = f"Triton cannot work here ({error}); it needs a C compiler (`apt install gcc`)"
    if problem is None:
        return triton_kernel.fit_members
    logger.warning(
        "INRs are fitted on the GPU by batched PyTorch, several times slower, for %s.", problem
    )
    return None
