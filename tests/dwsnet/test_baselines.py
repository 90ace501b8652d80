"""Gradient boosting on statistics learns, and is the same after saving and loading."""

import numpy as np
import pytest
import torch

from dwsnet import DWSNetClassifier, WeightSpace
from dwsnet.baselines import BoostedStatistics
from tests.dwsnet.small_networks import random_network

pytestmark = pytest.mark.fast

SPACE = WeightSpace.mlp((2, 7, 5, 3))


def networks(batch: int, seed: int) -> dict[str, torch.Tensor]:
    tensors = random_network(SPACE, batch, seed)
    return {spec.name: x.float() for spec, x in zip(SPACE.tensors, tensors, strict=True)}


@pytest.mark.parametrize("target", ["class", "value"])
def test_boosted_statistics_learn_what_the_spread_of_a_layer_tells(target):
    generator = torch.Generator().manual_seed(0)
    spread = 1.4 * torch.rand(300, generator=generator) + 0.3
    state = networks(300, 1)
    state["layers.1.weight"] = state["layers.1.weight"] * spread.view(-1, 1, 1)
    targets = spread.numpy() if target == "value" else (spread > 1).long().numpy()
    model = BoostedStatistics(SPACE, target).fit(
        {name: x[:200] for name, x in state.items()}, targets[:200]
    )
    found = model.predict({name: x[200:] for name, x in state.items()})
    score = (
        np.corrcoef(found, targets[200:])[0, 1]
        if target == "value"
        else (found == targets[200:]).mean()
    )
    assert score > 0.75


@pytest.mark.parametrize(
    ("target", "targets"),
    [("class", np.array(["sgd", "adam"] * 30)), ("value", np.arange(60) / 60)],
)
def test_boosted_statistics_come_back_from_disk_the_same(tmp_path, target, targets):
    state = networks(60, 0)
    model = BoostedStatistics(SPACE, target)
    with pytest.raises(ValueError, match="call fit first"):
        model.predict(state)
    with pytest.raises(
        ValueError, match=r"targets must have shape \(60,\), one for each network, found \(59,\)"
    ):
        model.fit(state, targets[:-1])
    model.fit(state, targets).save_pretrained(tmp_path)
    assert np.array_equal(
        BoostedStatistics.from_pretrained(tmp_path).predict(state), model.predict(state)
    )
    with pytest.raises(ValueError, match="must hold a DWSNetClassifier, found a BoostedStatistics"):
        DWSNetClassifier.from_pretrained(tmp_path)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="target must be 'class' or 'value', got 'logits'"):
        BoostedStatistics(SPACE, "logits")
