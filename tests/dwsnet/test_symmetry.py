"""Symmetries keep a network's function; canonical forms remove the symmetry and nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dwsnet.canonical import canonical_phases, canonical_scales
from dwsnet.symmetry import (
    canonical_signs,
    permute,
    random_permutations,
    random_scales,
    random_signs,
    scale_units,
    turn_phases,
)
from dwsnet.weight_space import WeightSpace
from tests.dwsnet.small_networks import OMEGA, largest_difference, random_network, render, siren

pytestmark = pytest.mark.fast

WIDTHS = st.lists(st.integers(2, 6), min_size=3, max_size=5, unique=True)
SEEDS = st.integers(0, 2**31)
BATCH = 3
POINTS = torch.linspace(-1, 1, 11, dtype=torch.float64)


def grid(space: WeightSpace) -> torch.Tensor:
    """Eleven points `(points, inputs)`."""
    return torch.stack([POINTS.roll(i) for i in range(space.tensors[0].shape[1])], 1)


def random_turns(space: WeightSpace, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {
        name: torch.randint(-3, 4, (BATCH, size), generator=generator)
        for name, size in space.hidden.items()
    }


def action(symmetry: str, space: WeightSpace, seed: int):
    """The activation of a symmetry and a random element of it, as a function of tensors."""
    generator = torch.Generator().manual_seed(seed)
    match symmetry:
        case "permutation":
            return siren, lambda x: permute(space, x, random_permutations(space, BATCH, generator))
        case "signs of tanh":
            return torch.tanh, lambda x: scale_units(
                space, x, random_signs(space, BATCH, generator)
            )
        case "signs of sine":
            return siren, lambda x: scale_units(space, x, random_signs(space, BATCH, generator))
        case "scales":
            return torch.relu, lambda x: scale_units(
                space, x, random_scales(space, BATCH, generator, 3.0)
            )
        case "half turns":
            return siren, lambda x: turn_phases(space, x, random_turns(space, generator), OMEGA)


@pytest.mark.parametrize(
    "symmetry", ["permutation", "signs of tanh", "signs of sine", "scales", "half turns"]
)
@given(WIDTHS, SEEDS)
@settings(max_examples=20, deadline=None)
def test_symmetries_keep_the_function(symmetry, widths, seed):
    space = WeightSpace.mlp(widths)
    tensors = random_network(space, BATCH, seed, spread=0.2)
    activation, act = action(symmetry, space, seed)
    moved = act(tensors)
    assert torch.allclose(
        render(moved, grid(space), activation), render(tensors, grid(space), activation), atol=1e-9
    )


@pytest.mark.parametrize(
    ("symmetry", "wrong"),
    [("signs of sine", torch.relu), ("scales", torch.tanh), ("half turns", torch.tanh)],
)
def test_the_wrong_activation_shows(symmetry, wrong):
    space = WeightSpace.mlp((2, 5, 4, 3))
    tensors = random_network(space, BATCH, 0)
    moved = action(symmetry, space, 0)[1](tensors)
    assert (
        render(moved, grid(space), wrong) - render(tensors, grid(space), wrong)
    ).abs().max() > 1e-2


def test_turning_the_bias_by_pi_without_omega_changes_a_siren():
    space = WeightSpace.mlp((2, 5, 4, 3))
    tensors = random_network(space, BATCH, 0, spread=0.2)
    turns = {name: torch.ones(BATCH, size) for name, size in space.hidden.items()}
    before = render(tensors, grid(space), siren)
    assert (
        render(turn_phases(space, tensors, turns, OMEGA), grid(space), siren) - before
    ).abs().max() < 1e-9
    assert (
        render(turn_phases(space, tensors, turns, 1.7), grid(space), siren) - before
    ).abs().max() > 1e-2


def canonical(symmetry: str, space: WeightSpace, tensors):
    match symmetry:
        case "signs of tanh" | "signs of sine":
            return canonical_signs(space, tensors)
        case "scales":
            return canonical_scales(space, tensors)
        case "half turns":
            return canonical_phases(space, tensors, OMEGA)


@pytest.mark.parametrize("symmetry", ["signs of tanh", "signs of sine", "scales", "half turns"])
@given(WIDTHS, SEEDS)
@settings(max_examples=20, deadline=None)
def test_canonical_forms_keep_the_function_and_forget_the_symmetry(symmetry, widths, seed):
    space = WeightSpace.mlp(widths)
    tensors = random_network(space, BATCH, seed, spread=0.2)
    activation, act = action(symmetry, space, seed)
    form = canonical(symmetry, space, tensors)
    assert torch.allclose(
        render(form, grid(space), activation), render(tensors, grid(space), activation), atol=1e-9
    )
    assert largest_difference(canonical(symmetry, space, act(tensors)), form) < 1e-9
    assert largest_difference(canonical(symmetry, space, form), form) < 1e-9


@given(WIDTHS, SEEDS)
@settings(max_examples=20, deadline=None)
def test_canonical_forms_commute_with_permutations(widths, seed):
    space = WeightSpace.mlp(widths)
    tensors = random_network(space, BATCH, seed, spread=0.2)
    permutation = random_permutations(space, BATCH, torch.Generator().manual_seed(seed))
    for symmetry in ("signs of sine", "scales", "half turns"):
        one = canonical(symmetry, space, permute(space, tensors, permutation))
        other = permute(space, canonical(symmetry, space, tensors), permutation)
        assert largest_difference(one, other) < 1e-9


def test_canonical_forms_are_what_they_say():
    space = WeightSpace.mlp((2, 5, 4, 3))
    tensors = random_network(space, BATCH, 1, spread=0.3)
    phases = [OMEGA * bias for bias in canonical_phases(space, tensors, OMEGA)[1:-1:2]]
    assert all(phase.min() >= -1e-12 and phase.max() <= torch.pi / 2 + 1e-12 for phase in phases)
    assert (OMEGA * tensors[1]).abs().max() > torch.pi
    scaled = canonical_scales(space, tensors)
    for weight, bias in zip(scaled[:-2:2], scaled[1:-2:2], strict=True):
        assert torch.allclose(
            weight.square().sum(2) + bias.square(), torch.ones((), dtype=torch.float64)
        )
    assert all((bias >= 0).all() for bias in canonical_signs(space, tensors)[1:-1:2])


def test_a_dead_relu_unit_stays_as_it_is():
    space = WeightSpace.mlp((2, 5, 3))
    tensors = random_network(space, BATCH, 1)
    tensors[0][:, 2], tensors[1][:, 2] = 0, 0
    scaled = canonical_scales(space, tensors)
    assert all(x.isfinite().all() for x in scaled)
    assert torch.equal(scaled[2][:, :, 2], tensors[2][:, :, 2])


def test_scales_of_a_convolutional_network_keep_its_function():
    """Kernels are (out, in, height, width); average pooling commutes with scales of channels."""
    space = WeightSpace.cnn(2, (4, 3), 3, 5)

    def classify(tensors):
        image = torch.randn(
            1, 2, 7, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64
        )
        w1, b1, w2, b2, w3, b3 = (x[0] for x in tensors)
        hidden = torch.nn.functional.conv2d(image, w1, b1).relu()
        hidden = torch.nn.functional.conv2d(hidden, w2, b2).relu().mean((2, 3))
        return hidden @ w3.T + b3

    tensors = random_network(space, 1, 4)
    scaled = canonical_scales(space, tensors)
    assert torch.allclose(classify(scaled), classify(tensors), atol=1e-12)
    assert largest_difference(scaled, tensors) > 0.1
    moved = scale_units(
        space, tensors, random_scales(space, 1, torch.Generator().manual_seed(5), 4.0)
    )
    assert largest_difference(canonical_scales(space, moved), scaled) < 1e-9


def test_each_member_gets_its_own_permutation():
    space = WeightSpace.mlp((2, 7, 3))
    permutation = random_permutations(space, 20, torch.Generator().manual_seed(0))["layer1"]
    assert torch.equal(permutation.sort(1).values, torch.arange(7).expand(20, 7))
    assert len(permutation.unique(dim=0)) > 15
    tensors = random_network(space, 20, 0)
    together = permute(space, tensors, {"layer1": permutation})
    for member in (0, 13):
        alone = permute(
            space, [x[member : member + 1] for x in tensors], {"layer1": permutation[member]}
        )
        assert largest_difference(alone, [x[member : member + 1] for x in together]) == 0


ZERO_BIASES = {
    "all biases": lambda x: [y * 0 if y.ndim == 2 else y for y in x],
    "dead units too": lambda x: (
        [
            y * 0
            if y.ndim == 2
            else y.masked_fill(y.abs() < 0.4, 0).index_fill(1, torch.tensor(0), 0)
            for y in x[:-2]
        ]
        + x[-2:]
    ),
    "rows that sum to 0": lambda x: [
        y * 0 if y.ndim == 2 else y - y.mean(tuple(range(2, y.ndim)), keepdim=True) for y in x
    ],
}


@pytest.mark.parametrize("change", ZERO_BIASES.values(), ids=ZERO_BIASES)
@pytest.mark.parametrize(
    "space",
    [WeightSpace.mlp((2, 6, 5, 4, 3)), WeightSpace.cnn(2, (5, 4), 3, 2)],
    ids=["mlp", "cnn"],
)
def test_signs_are_canonical_where_the_bias_is_zero(space, change):
    """For units in any order and with any signs, connected to any inputs or outputs."""
    tensors = change(list(random_network(space, BATCH, 0)))
    form = canonical_signs(space, tensors)
    assert largest_difference(form, tensors) > 1e-3
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        flipped = scale_units(space, tensors, random_signs(space, BATCH, generator))
        assert largest_difference(flipped, tensors) > 1e-3
        assert largest_difference(canonical_signs(space, flipped), form) < 1e-12
        order = random_permutations(space, BATCH, generator)
        moved = canonical_signs(space, permute(space, tensors, order))
        assert largest_difference(moved, permute(space, form, order)) < 1e-12


@pytest.mark.parametrize("factor", [1e-38, 1e-30, 1e-20, 1e22, 1e30, 1e38])
def test_scales_are_canonical_at_every_size_that_float32_has(factor):
    space = WeightSpace.mlp((2, 5, 4, 3))
    tensors = tuple(x.float() for x in random_network(space, BATCH, 0, spread=0.3))
    factors = {"layer1": torch.full((5,), factor), "layer2": torch.full((4,), factor**0.5)}
    moved = canonical_scales(space, scale_units(space, tensors, factors))
    for one, other in zip(moved, canonical_scales(space, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
