"""Measures how long work takes."""

import time
from collections.abc import Callable
from statistics import median

import torch


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Seconds that `work` takes: CPU time, unaffected by other programs; wall time on GPUs."""
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
    """The median seconds of a call of `work`, which is repeated until `budget` seconds have passed.

    The first call, which allocates memory and compiles kernels, does not count.
    """
    work()
    times: list[float] = []
    while sum(times) < budget:
        times.append(seconds_of(work, device))
    return median(times)
