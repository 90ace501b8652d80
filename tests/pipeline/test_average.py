"""The average of weights while they are trained."""

import pytest
import torch
from torch import nn

from pipeline.training.average import WeightAverage

pytestmark = pytest.mark.fast


def test_it_is_the_mean_of_all_steps_with_weights_that_fall_by_the_decay():
    model = nn.BatchNorm1d(3).double()  # parameters, statistics, and a counter
    average = WeightAverage(model, 0.6)
    expected = {name: tensor.clone() for name, tensor in average.tensors.items()}
    assert expected.keys() == {"weight", "bias", "running_mean", "running_var"}
    for step in range(20):
        with torch.no_grad():
            for tensor in average.tensors.values():
                tensor.normal_()
        taken = step != 7
        decay = min(0.6, (1 + step) / (10 + step)) if taken else 1
        for name, tensor in average.tensors.items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor
        average.update(step, torch.tensor(taken))
    for name, tensor in average.averages.items():
        torch.testing.assert_close(tensor, expected[name])


def test_the_model_has_the_averages_in_a_block_and_its_own_weights_after_it():
    model = nn.Linear(2, 3)
    average = WeightAverage(model, 0.9)
    own = model.weight.detach().clone()
    average.load({"weight": torch.zeros(3, 2), "bias": torch.zeros(3)})
    with average.in_place():
        assert not model.weight.any()
    assert torch.equal(model.weight, own)
    assert not average.averages["weight"].any()
