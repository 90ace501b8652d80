"""Model FLOPs utilization of a GPU in training."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property

import torch

SIZE, REPEATS = 4096, 10


class ModelFlops:
    """Model FLOPs utilization (MFU; Chowdhery et al. 2022, appendix B) of one rank.

    Counts the matrix products in the forward and backward pass of the first step. The limit is the
    rate of one large product on this device in this precision.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, is_compiled: bool = False):
        self.device, self.dtype, self.is_compiled = device, dtype, is_compiled
        self.of_step: int | None = None

    @cached_property
    def limit(self) -> float:
        """FLOP/s of one large matrix product."""
        return matmul_rate(self.device, self.dtype)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the FLOPs of a step. Only the first use has a cost."""
        if self.of_step is not None:
            yield
            return
        from torch.utils.flop_counter import FlopCounterMode  # loads Triton

        # Compiled code is not counted, so the model runs uncompiled meanwhile. That needs the
        # compiler, which takes seconds to import.
        eager = torch.compiler.set_stance("force_eager") if self.is_compiled else nullcontext()
        with FlopCounterMode(display=False) as counter, eager:
            yield
        self.of_step = counter.get_total_flops()

    def utilization(self, step_seconds: float) -> float:
        """MFU, between 0 and 1, once a step was counted."""
        assert self.of_step is not None
        return self.of_step / step_seconds / self.limit


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measured FLOP/s of a large matrix product."""
    a, b = (torch.randn(SIZE, SIZE, device=device, dtype=dtype) for _ in range(2))
    return 2 * SIZE**3 / min(seconds(lambda: a @ b, device) for _ in range(REPEATS))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start
