"""Baselines answer in the shape asked for, are of the size asked for, learn, and are invariant where they say so."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from dwsnet.baselines import (
    AlignedMLPClassifier,
    AugmentedMLPClassifier,
    BoostedStatistics,
    FlatMLPClassifier,
    INR2VecClassifier,
    TransformerClassifier,
)
from dwsnet.baselines.rows import row_shape, to_rows
from dwsnet.baselines.statistics import tensor_statistics
from dwsnet.baselines.width import widest
from dwsnet.models import num_parameters
from dwsnet.symmetry import permute, random_permutations
from dwsnet.weight_space import Axis, TensorSpec, WeightSpace
from tests.dwsnet.small_networks import random_network

MODELS = [
    FlatMLPClassifier,
    AugmentedMLPClassifier,
    AlignedMLPClassifier,
    INR2VecClassifier,
    TransformerClassifier,
]
SPACE = WeightSpace.mlp((2, 7, 5, 3))


def as_state(space: WeightSpace, tensors) -> dict[str, torch.Tensor]:
    return {spec.name: x for spec, x in zip(space.tensors, tensors, strict=True)}


def networks(space: WeightSpace, batch: int, seed: int) -> dict[str, torch.Tensor]:
    return as_state(space, [x.float() for x in random_network(space, batch, seed)])


def shuffled(space: WeightSpace, state, seed: int = 0):
    permutation = random_permutations(
        space, len(next(iter(state.values()))), torch.Generator().manual_seed(seed)
    )
    return as_state(space, permute(space, list(state.values()), permutation))


def build(kind, space: WeightSpace, num_classes: int, size: int, state=None) -> nn.Module:
    """The model, standardising nothing, aligned to the first network where it needs one."""
    torch.manual_seed(0)
    model = kind(space, num_classes, size)
    return (
        model.align_to(state or networks(space, 1, 99)) if kind is AlignedMLPClassifier else model
    )


@pytest.mark.parametrize("kind", MODELS)
def test_logits_have_one_row_a_network(kind):
    state = networks(SPACE, 6, 0)
    logits = build(kind, SPACE, 4, 5000)(state)
    assert logits.shape == (6, 4)
    assert logits.isfinite().all()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    "widths", [(2, 7, 5, 3), (1, 12, 1), (2, 32, 32, 1), (3, 9, 6, 8, 10)], ids=str
)
@pytest.mark.parametrize("size", [8_000, 60_000, 550_000])
def test_baselines_are_of_the_size_asked_for(kind, widths, size):
    space = WeightSpace.mlp(widths)
    with torch.device("meta"):
        count = num_parameters(kind(space, 10, size))
    # Three layers take their width from the square of the budget; a linear step of one unit is coarse below that.
    assert 0.9 * size <= count <= size


@pytest.mark.parametrize("kind", MODELS)
def test_invariance_is_as_the_docstrings_say(kind):
    state = networks(SPACE, 40, 0)
    model = build(kind, SPACE, 4, 20_000).eval()
    error = (model(shuffled(SPACE, state)) - model(state)).abs().max()
    if kind is AlignedMLPClassifier:
        assert error < 1e-5
    else:
        assert error > 1e-2


def test_rows_of_the_last_layer_may_come_in_any_order_in_inr2vec_alone():
    """A permutation of output neurons moves whole rows: the maximum forgets it, learned positions do not."""
    state = networks(SPACE, 10, 0)
    turned = {
        **state,
        **{name: state[name].roll(1, 1) for name in ("layers.2.weight", "layers.2.bias")},
    }
    errors = {}
    for kind in (INR2VecClassifier, TransformerClassifier):
        model = build(kind, SPACE, 4, 20_000).eval()
        errors[kind] = (model(turned) - model(state)).abs().max()
    assert errors[INR2VecClassifier] < 1e-5 < 1e-3 < errors[TransformerClassifier]


def test_augmentation_permutes_in_training_only():
    state = networks(SPACE, 10, 0)
    model = build(AugmentedMLPClassifier, SPACE, 4, 5000)
    tensors = model.read(state)
    moved = model.order(tensors)
    assert not torch.equal(moved[0], tensors[0])
    assert torch.equal(moved[0].sort(1).values, tensors[0].sort(1).values)
    assert model.eval().order(tensors) is tensors


@pytest.mark.usefixtures("unchecked")
def test_the_augmented_mlp_compiles_with_its_random_permutations():
    model = build(AugmentedMLPClassifier, SPACE, 4, 1000)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert not torch.equal(compiled(networks(SPACE, 10, 0)), compiled(networks(SPACE, 10, 0)))


def test_the_aligned_mlp_needs_a_reference_and_keeps_it_in_its_state_dict():
    state = networks(SPACE, 4, 0)
    with pytest.raises(ValueError, match="call align_to"):
        AlignedMLPClassifier(SPACE, 4, 5000)(state)
    model = build(AlignedMLPClassifier, SPACE, 4, 5000, state).eval()
    copy = AlignedMLPClassifier(SPACE, 4, 5000)
    copy.load_state_dict(model.state_dict())
    assert torch.allclose(copy.eval()(state), model(state), rtol=1e-12, atol=1e-12)


def test_a_row_is_what_computes_one_neuron():
    state = networks(SPACE, 3, 0)
    rows = to_rows(SPACE, list(state.values()))
    assert rows.shape == (3, *row_shape(SPACE)) == (3, 15, 8)
    assert torch.equal(rows[:, 7, :7], state["layers.1.weight"][:, 0])
    assert torch.equal(rows[:, 7, 7], state["layers.1.bias"][:, 0])
    assert rows[:, 0, 3:].abs().max() == 0


def test_kernels_are_rows_too():
    channels, kernel = Axis("c", 4, True), (Axis("h", 3, False), Axis("w", 2, False))
    space = WeightSpace(
        (
            TensorSpec(
                "conv.weight", (Axis("rgb", 3, False), channels, *kernel), ("in", "out", "in", "in")
            ),
            TensorSpec("conv.bias", (channels,), ("out",)),
        )
    )
    assert row_shape(space) == (4, 19)
    assert build(TransformerClassifier, space, 2, 20_000)(networks(space, 5, 0)).shape == (5, 2)


def test_the_widest_model_that_fits_is_taken():
    model = widest(lambda width: nn.Linear(width, 10, bias=False), 1009)
    assert model.weight.shape == (10, 100)
    assert model.weight.device.type == "cpu"
    assert widest(lambda width: nn.Linear(width, 10), 1).in_features == 1


@cache
def digit_inrs():
    """INRs of scikit-learn's digits 0 and 1: `(state, labels)` of 40 members of widths (2, 12, 10, 1)."""
    from dwsnet.state import unpack
    from pipeline.config import FitConfig, InrConfig, SignalsConfig
    from pipeline.fit.adam import fit
    from pipeline.fit.seeds import member_keys
    from pipeline.fit.siren import inr_space
    from pipeline.signals import coordinates, load_signals

    signals = load_signals(SignalsConfig())
    chosen = np.flatnonzero(signals.labels < 2)[:40]
    config = InrConfig(hidden=(12, 10))
    space = inr_space(config, 2, 1)
    targets = torch.from_numpy(signals.values[chosen]).flatten(1, 2).transpose(1, 2)
    keys = member_keys(0, chosen, np.zeros_like(chosen))
    rows = fit(
        space,
        config,
        FitConfig(max_steps=300),
        keys,
        torch.from_numpy(coordinates((8, 8))),
        targets,
    ).rows
    return space, as_state(space, unpack(space, rows)), torch.from_numpy(signals.labels[chosen])


@pytest.mark.parametrize("kind", MODELS)
def test_baselines_tell_the_inrs_of_two_digits_apart_on_the_networks_they_saw(kind):
    space, state, labels = digit_inrs()
    model = build(kind, space, 2, 20_000, state)
    statistics = {
        name: {"mean": x.mean().item(), "std": x.std().item()} for name, x in state.items()
    }
    model.read.standardize.set(statistics)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(1000 if kind is AugmentedMLPClassifier else 150):
        loss = nn.functional.cross_entropy(model(state), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracy = (model.eval()(state).argmax(1) == labels).float().mean()
    assert accuracy >= 0.95


def test_statistics_do_not_see_permutations_and_are_seven_a_tensor():
    state = networks(SPACE, 5, 0)
    found = tensor_statistics(SPACE, state)
    assert found.shape == (5, 7 * 6)
    assert np.allclose(tensor_statistics(SPACE, shuffled(SPACE, state)), found, atol=1e-6)
    weight = state["layers.0.weight"].double().flatten(1)
    expected = [
        weight.mean(1),
        weight.var(1, correction=0),
        *weight.quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1]).double(), 1),
    ]
    assert np.allclose(found[:, :7], torch.stack(expected, 1).numpy())


@pytest.mark.parametrize("target", ["class", "value"])
def test_boosted_statistics_learn_what_the_spread_of_a_layer_tells(target):
    generator = torch.Generator().manual_seed(0)
    spread = 1.4 * torch.rand(300, generator=generator) + 0.3
    state = networks(SPACE, 300, 1)
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
    state = networks(SPACE, 60, 0)
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
    with pytest.raises(
        ValueError, match="must hold a FlatMLPClassifier, found a BoostedStatistics"
    ):
        FlatMLPClassifier.from_pretrained(tmp_path)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="target must be 'class' or 'value', got 'logits'"):
        BoostedStatistics(SPACE, "logits")
