"""Sums of a task over batches and ranks."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from pipeline.tasks import Batch, Task


@torch.no_grad()
def sums_over(task: Task, model: nn.Module, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """The task's sums over batches, on the CPU in float64; empty without batches."""
    return add_up([on_cpu(task.sums(model, batch)) for batch in batches])


def on_cpu(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value).detach().cpu().double() for name, value in sums.items()}


def add_up(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Add up the parts that are not empty."""
    total: dict[str, Tensor] = {}
    for part in parts:
        total = {name: total.get(name, 0) + value for name, value in part.items()} or total
    return total
