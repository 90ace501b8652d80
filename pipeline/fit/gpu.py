"""Loads `triton_kernel`, which fits on GPUs and is compiled at first use, if it can run."""

import logging
import subprocess
from collections.abc import Callable
from functools import cache

logger = logging.getLogger(__name__)


@cache
def load_gpu_kernel(sizes: tuple[int, ...]) -> Callable[..., None] | None:
    """A GPU version of `Kernel.fit_members` for networks of these sizes.

    None, after a warning, if there is none.
    """
    try:
        from pipeline.fit import triton_kernel

        problem = triton_kernel.why_not(sizes, *triton_kernel.gpu())
    except ImportError as error:
        problem = f"Triton, which comes with CUDA builds of torch, is missing ({error})"
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        problem = f"Triton does not run here ({error}); it needs a C compiler (`apt install gcc`)"
    if problem is None:
        return triton_kernel.fit_members
    logger.warning(
        "INRs are fitted on the GPU by batched PyTorch, several times slower: %s.", problem
    )
    return None
