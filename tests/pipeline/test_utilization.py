"""Operations of a step, and their share of the limit."""

import pytest
import torch
from torch import nn

from pipeline.training.utilization import ModelFlops


@pytest.mark.fast
def test_operations_are_those_of_the_first_step_forward_and_backward():
    flops, layer = ModelFlops(torch.device("cpu"), torch.float32), nn.Linear(5, 7)
    for members in (11, 13):
        with flops.counted():
            layer(torch.randn(members, 5)).sum().backward()
    assert flops.of_step == 2 * (2 * 11 * 5 * 7)  # no gradient goes to the inputs
    flops.limit = 1e6
    assert flops.utilization(step_seconds=1e-2) == pytest.approx(flops.of_step / 1e4)
