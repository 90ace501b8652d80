"""An exponential moving average of a model's weights over the steps of its training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of all floating-point tensors of a model: its parameters and running statistics.

    After t steps the decay is min(decay, (1 + t) / (10 + t)), as the first weights are random.
    """

    def __init__(self, model: nn.Module, decay: float):
        state = model.state_dict(keep_vars=True)
        self.tensors = {name: x.detach() for name, x in state.items() if x.is_floating_point()}
        self.averages = {name: tensor.clone() for name, tensor in self.tensors.items()}
        self.decay = decay

    def load(self, state: Mapping[str, Tensor]):
        """Continue from the averages in a state dict."""
        for name, average in self.averages.items():
            average.copy_(state[name])

    def update(self, step: int, is_taken: Tensor):
        """Add the weights after `step` steps; if the last was not taken, nothing changes."""
        averages = [*self.averages.values()]
        weight = (1 - min(self.decay, (1 + step) / (10 + step))) * is_taken
        changes = torch._foreach_sub([*self.tensors.values()], averages)
        torch._foreach_mul_(changes, weight)
        torch._foreach_add_(averages, changes)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """In the block, the model has the averages as its weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self):
        tensors, averages = [*self.tensors.values()], [*self.averages.values()]
        weights = [tensor.clone() for tensor in tensors]
        torch._foreach_copy_(tensors, averages)
        torch._foreach_copy_(averages, weights)
