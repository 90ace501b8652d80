"""Weight matching undoes permutations, does no harm, and ignores the order of neurons."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dwsnet.align import match_weights
from dwsnet.symmetry import permute, random_permutations
from dwsnet.weight_space import Axis, TensorSpec, WeightSpace
from tests.dwsnet.small_networks import largest_difference, random_network

pytestmark = pytest.mark.fast

WIDTHS = st.lists(st.integers(2, 7), min_size=3, max_size=6, unique=True)
SEEDS = st.integers(0, 2**31)


def inner_product(reference, tensors) -> torch.Tensor:
    """`(batch,)`"""
    return sum((a * b).flatten(1).sum(1) for a, b in zip(reference, tensors, strict=True))


def shuffled(space, tensors, seed):
    return permute(
        space,
        tensors,
        random_permutations(space, len(tensors[0]), torch.Generator().manual_seed(seed)),
    )


@given(WIDTHS, SEEDS)
@settings(max_examples=40, deadline=None)
def test_what_is_matched_does_not_depend_on_the_order_of_neurons(widths, seed):
    space = WeightSpace.mlp(widths)
    reference, tensors = random_network(space, 1, seed), random_network(space, 3, seed + 1)
    matched = permute(space, tensors, match_weights(space, reference, tensors))
    moved = shuffled(space, tensors, seed)
    assert (
        largest_difference(permute(space, moved, match_weights(space, reference, moved)), matched)
        == 0
    )


@given(WIDTHS, SEEDS)
@settings(max_examples=40, deadline=None)
def test_a_network_is_matched_to_itself(widths, seed):
    space = WeightSpace.mlp(widths)
    tensors = random_network(space, 3, seed)
    moved = shuffled(space, tensors, seed)
    assert (
        largest_difference(permute(space, moved, match_weights(space, tensors, moved)), tensors)
        == 0
    )


def test_one_hidden_axis_is_matched_as_well_as_by_trying_all_orders():
    space = WeightSpace.mlp((2, 5, 3))
    reference, tensors = random_network(space, 1, 0), random_network(space, 4, 1)
    found = inner_product(
        reference, permute(space, tensors, match_weights(space, reference, tensors))
    )
    tried = [
        inner_product(reference, permute(space, tensors, {"layer1": torch.tensor(p)}))
        for p in permutations(range(5))
    ]
    assert torch.allclose(found, torch.stack(tried).amax(0))


def test_matching_gains_on_networks_that_have_nothing_in_common():
    space = WeightSpace.mlp((2, 16, 12, 3))
    reference, tensors = random_network(space, 1, 0), random_network(space, 20, 1)
    matched = permute(space, tensors, match_weights(space, reference, tensors))
    assert (inner_product(reference, matched) > inner_product(reference, tensors) + 50).all()


def test_matching_sees_through_noise():
    space = WeightSpace.mlp((2, 16, 12, 3))
    tensors = random_network(space, 10, 0)
    noisy = [
        x + 0.2 * noise for x, noise in zip(tensors, random_network(space, 10, 1), strict=True)
    ]
    moved = shuffled(space, noisy, 2)
    assert (
        largest_difference(permute(space, moved, match_weights(space, tensors, moved)), noisy) == 0
    )


def test_axes_in_any_order_and_kernels_are_matched():
    a, b, kernel = Axis("a", 4, True), Axis("b", 5, True), Axis("k", 3, False)
    space = WeightSpace(
        (TensorSpec("w", (a, kernel, b)), TensorSpec("v", (b, a)), TensorSpec("bias", (a,)))
    )
    tensors = random_network(space, 2, 0)
    moved = shuffled(space, tensors, 1)
    assert (
        largest_difference(permute(space, moved, match_weights(space, tensors, moved)), tensors)
        == 0
    )


def test_what_later_layers_tell_is_used_where_earlier_ones_tell_nothing():
    """The first layer is zero: only the second round, which sees the second weight, matches it."""
    space = WeightSpace.mlp((2, 6, 5, 3))
    reference = random_network(space, 1, 0)
    reference[0].zero_(), reference[1].zero_(), reference[4].mul_(100)
    moved = permute(
        space, reference, {"layer1": torch.arange(6).roll(2), "layer2": torch.arange(5)}
    )
    assert (
        largest_difference(permute(space, moved, match_weights(space, reference, moved)), reference)
        == 0
    )


def test_axes_that_no_tensor_has_alone_are_matched_together():
    a, b = Axis("a", 4, True), Axis("b", 5, True)
    space = WeightSpace((TensorSpec("there", (b, a)), TensorSpec("back", (a, b))))
    tensors = random_network(space, 20, 0)
    assert (
        largest_difference(permute(space, tensors, match_weights(space, tensors, tensors)), tensors)
        == 0
    )
    moved = shuffled(space, tensors, 1)
    matched = permute(space, moved, match_weights(space, tensors, moved))
    assert (inner_product(tensors, matched) > inner_product(tensors, moved) + 1).all()
