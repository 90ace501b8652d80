"""How long work takes a worker."""

import time
from collections.abc import Callable
from statistics import median

import torch


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Seconds that calling `work` takes: of the processor, which other programs do not lengthen; on a GPU, until it is done."""
    if device == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def median_seconds(work: Callable[[], object], device: str, budget: float) -> float:
    """The median of the seconds that calling `work` takes, called again and again until `budget` seconds are gone.

    The first call, in which memory is taken and kernels are compiled, does not count.
    """
    work()
    times: list[float] = []
    while sum(times) < budget:
        times.append(seconds_of(work, device))
    return median(times)
