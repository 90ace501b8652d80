"""Augmentations: exact ones tested by rendering, random ones by their mean and variance."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dwsnet.align import match_weights
from dwsnet.augment import (
    add_noise,
    flip_signs,
    mask,
    mixup,
    move_picture,
    permute_hidden,
    random_rotations,
    random_shifts,
    random_zooms,
)
from dwsnet.keyed import fold_in, normal, uniform
from dwsnet.symmetry import permute, random_permutations
from dwsnet.weight_space import WeightSpace
from tests.dwsnet.small_networks import largest_difference, random_network, render, siren

pytestmark = pytest.mark.fast

SPACE = WeightSpace.mlp((2, 6, 5, 3))
POINTS = torch.rand(13, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64) * 2 - 1
SEEDS = st.integers(0, 2**31)


def keys_of(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2**62, (batch,), generator=torch.Generator().manual_seed(seed))


def inrs(batch: int = 4, seed: int = 0):
    return random_network(SPACE, batch, seed, spread=0.1)


AUGMENTATIONS = {
    "permute_hidden": lambda x, keys: permute_hidden(SPACE, x, keys),
    "flip_signs": lambda x, keys: flip_signs(SPACE, x, keys),
    "add_noise": lambda x, keys: add_noise(SPACE, x, keys, 0.1),
    "mask": lambda x, keys: mask(SPACE, x, keys, 0.1),
    "shift": lambda x, keys: move_picture(
        SPACE, x, torch.eye(2).expand(len(x[0]), 2, 2), random_shifts(keys, 2, 0.2)
    ),
    "rotate": lambda x, keys: move_picture(
        SPACE, x, random_rotations(keys, 0.7), torch.zeros(len(x[0]), 2)
    ),
    "zoom": lambda x, keys: move_picture(
        SPACE, x, random_zooms(keys, 2, 1.3), torch.zeros(len(x[0]), 2)
    ),
    "mixup": lambda x, keys: mixup(SPACE, x, torch.eye(len(x[0])), keys, 0.4)[0],
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_are_pure_and_follow_the_keys(name):
    tensors = tuple(x.float() for x in inrs())
    before = [x.clone() for x in tensors]
    one, again, other = (AUGMENTATIONS[name](tensors, keys_of(4, seed)) for seed in (1, 1, 2))
    assert largest_difference(tensors, before) == 0
    assert largest_difference(one, again) == 0
    assert largest_difference(one, other) > 1e-3
    assert [(x.shape, x.dtype) for x in one] == [(x.shape, x.dtype) for x in tensors]


@pytest.mark.parametrize(
    "name", ["permute_hidden", "flip_signs", "add_noise", "mask", "shift", "rotate", "zoom"]
)
def test_members_are_augmented_each_in_its_own_way(name):
    tensors = tuple(x[:1].expand(6, *x.shape[1:]) for x in inrs())
    augmented = AUGMENTATIONS[name](tensors, keys_of(6))
    assert len(torch.cat([x.flatten(1) for x in augmented], 1).unique(dim=0)) == 6


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_permutations_and_signs_keep_the_function(seed):
    tensors = inrs(seed=seed)
    for name in ("permute_hidden", "flip_signs"):
        moved = AUGMENTATIONS[name](tensors, keys_of(4, seed))
        assert torch.allclose(
            render(moved, POINTS, siren), render(tensors, POINTS, siren), atol=1e-9
        )


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_picture_moves_exactly_as_it_says(seed):
    tensors, keys = inrs(seed=seed), keys_of(4, seed)
    linear = random_rotations(keys, 3.0) @ random_zooms(fold_in(keys, 1), 2, 1.5)
    shift = random_shifts(fold_in(keys, 2), 2, 0.5)
    moved = move_picture(SPACE, tensors, linear, shift)
    new_points = POINTS @ linear.transpose(1, 2) + shift.unsqueeze(1)
    assert torch.allclose(
        render(moved, new_points, siren), render(tensors, POINTS, siren), atol=1e-8
    )
    assert (render(moved, POINTS, siren) - render(tensors, POINTS, siren)).abs().max() > 1e-3


def test_random_motions_have_the_size_they_say():
    shift, rotation, zoom = (
        random_shifts(keys_of(4000), 2, 0.3),
        random_rotations(keys_of(4000), 0.5),
        random_zooms(keys_of(4000), 3, 2.0),
    )
    assert shift.abs().max() <= 0.3
    assert shift.mean().abs() < 0.01
    angle = torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0])
    assert 0.49 < angle.abs().max() <= 0.5
    assert torch.allclose(
        rotation @ rotation.transpose(1, 2), torch.eye(2, dtype=torch.float64).expand(4000, 2, 2)
    )
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(4000, dtype=torch.float64))
    assert 0.5 <= zoom[:, 0, 0].min() < 0.51 < 1.99 < zoom[:, 0, 0].max() <= 2
    assert zoom[:, 0, 0].log().mean().abs() < 0.03


def test_what_is_no_inr_cannot_be_moved():
    with pytest.raises(ValueError, match="an INR must begin with a weight"):
        move_picture(
            WeightSpace(SPACE.tensors[1:]),
            inrs()[1:],
            torch.eye(2).expand(4, 2, 2),
            torch.zeros(4, 2),
        )


def test_noise_is_gaussian_with_the_spread_asked_for():
    space = WeightSpace.mlp((4, 40, 30, 10))
    tensors = [x * (i + 1) + 3 for i, x in enumerate(random_network(space, 400, 0))]
    for x, y in zip(tensors, add_noise(space, tensors, keys_of(400), 0.25), strict=True):
        size = x.flatten(1).square().mean(1).sqrt()
        noise = ((y - x).flatten(1) / (0.25 * size.unsqueeze(1))).flatten()
        standard_error = noise.numel() ** -0.5
        assert noise.mean().abs() < 5 * standard_error
        assert (noise.square().mean() - 1).abs() < 8 * standard_error
        assert (noise.pow(4).mean() - 3).abs() < 50 * standard_error


def test_noise_on_a_tensor_of_zeros_is_none():
    tensors = [torch.zeros_like(x) for x in inrs()]
    assert largest_difference(add_noise(SPACE, tensors, keys_of(4), 0.5), tensors) == 0


@pytest.mark.parametrize(
    "name", ["permute_hidden", "flip_signs", "add_noise", "mask", "shift", "rotate", "zoom"]
)
def test_what_becomes_of_a_member_does_not_depend_on_the_others(name):
    tensors, keys, some = inrs(9), keys_of(9), torch.tensor([5, 0, 7])
    whole = AUGMENTATIONS[name](tensors, keys)
    part = AUGMENTATIONS[name](tuple(x[some] for x in tensors), keys[some])
    assert largest_difference([x[some] for x in whole], part) < 1e-12


def test_partners_depend_on_the_keys_of_the_batch_and_not_on_its_order():
    tensors, keys, order = inrs(9), keys_of(9), torch.randperm(9)
    targets = torch.eye(9)
    mixed, soft = mixup(SPACE, tensors, targets, keys, 0.4)
    moved = [x[order] for x in tensors]
    again, softer = mixup(SPACE, moved, targets[order], keys[order], 0.4)
    assert largest_difference([x[order] for x in mixed], again) < 1e-12
    assert torch.equal(soft[order], softer)


def test_masks_hide_the_share_asked_for_and_leave_the_rest():
    space = WeightSpace.mlp((4, 40, 30, 10))
    tensors = random_network(space, 100, 0)
    for x, y in zip(tensors, mask(space, tensors, keys_of(100), 0.3), strict=True):
        hidden = y == 0
        assert (hidden.double().mean() - 0.3).abs() < 5 * (0.21 / x.numel()) ** 0.5
        assert torch.equal(y[~hidden], x[~hidden])


def test_mixup_lies_between_a_member_and_its_aligned_partner_and_so_do_the_targets():
    tensors, targets = inrs(8), torch.eye(8, dtype=torch.float64)
    mixed, soft = mixup(SPACE, tensors, targets, keys_of(8), 1.0)
    assert torch.allclose(soft.sum(1), torch.ones(8, dtype=torch.float64))
    assert (soft >= 0).all()
    for i in range(8):
        others = [j for j in range(8) if soft[i, j] > 0 and j != i]
        if not others:
            assert largest_difference([x[i] for x in mixed], [x[i] for x in tensors]) < 1e-12
            continue
        member, partner = ([x[j : j + 1] for x in tensors] for j in (i, others[0]))
        partner = permute(SPACE, partner, match_weights(SPACE, member, partner))
        expected = [
            (1 - soft[i, others[0]]) * a + soft[i, others[0]] * b
            for a, b in zip(member, partner, strict=True)
        ]
        assert largest_difference([x[i : i + 1] for x in mixed], expected) < 1e-12


def test_mixup_of_networks_that_differ_by_their_order_alone_is_the_network():
    tensors = tuple(x[:1].expand(5, *x.shape[1:]) for x in inrs())
    moved = permute(SPACE, tensors, random_permutations(SPACE, 5, torch.Generator()))
    mixed, _ = mixup(SPACE, moved, torch.eye(5), keys_of(5), 1.0)
    assert torch.allclose(render(mixed, POINTS, siren), render(tensors, POINTS, siren), atol=1e-9)


def test_a_concentration_of_zero_mixes_nothing_and_what_is_no_number_is_refused():
    space, keys = WeightSpace.mlp((2, 5, 4, 3)), keys_of(4)
    tensors, targets = random_network(space, 4, 0), torch.eye(4)
    mixed, soft = mixup(space, tensors, targets, keys, 0.0)
    assert largest_difference(mixed, tensors) == 0
    assert torch.equal(soft, targets)
    mixed, _ = mixup(space, tensors, targets, keys, 1e-300)
    assert all(x.isfinite().all() for x in mixed)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"concentration must be a finite .* got {wrong}"):
            mixup(space, tensors, targets, keys, wrong)
        with pytest.raises(ValueError, match=f"scale must be a finite number .* got {wrong}"):
            add_noise(space, tensors, keys, wrong)
        with pytest.raises(ValueError, match="largest must be a finite number above 0"):
            random_zooms(keys, 2, wrong)


@pytest.mark.usefixtures("unchecked")
def test_keys_are_one_whole_number_a_member():
    for wrong in (keys_of(3), keys_of(4).float()):
        with pytest.raises(ValueError, match=r"keys must be int64 of shape \(4,\), found torch"):
            mask(SPACE, inrs(), wrong, 0.1)


def test_keyed_numbers_are_uniform_normal_and_independent_of_one_another():
    keys = torch.arange(2000)  # as alike as keys can be
    numbers = torch.cat(
        [uniform(keys, 3), uniform(fold_in(keys, 0), 3), uniform(fold_in(keys, 1), 3)], 1
    )
    assert ((numbers > 0) & (numbers < 1)).all()
    ordered = numbers.sort(0).values
    expected = (torch.arange(2000) + 0.5).double().unsqueeze(1) / 2000
    assert (ordered - expected).abs().max() < 2.2 / 2000**0.5  # Kolmogorov and Smirnov: p < 1e-4
    correlation = torch.corrcoef(numbers.t()) - torch.eye(9)
    assert correlation.abs().max() < 5 / 2000**0.5
    serial = torch.corrcoef(torch.stack([numbers[:-1, 0], numbers[1:, 0]]))[0, 1]
    assert serial.abs() < 5 / 2000**0.5
    values = normal(keys, 7)
    assert (values.square().mean() - 1).abs() < 5 * (2 / 14_000) ** 0.5
    assert values.mean().abs() < 5 / 14_000**0.5


def test_keyed_numbers_are_those_of_splitmix64():
    """Compared with the published algorithm in Python integers, also for keys of 64 bits."""

    def scramble(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    assert scramble(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # the first number of seed 0
    for key in (0, 1, -1, 2**63 - 1, -(2**63), 123456789):
        found = uniform(torch.tensor([key]), 4)[0]
        start = scramble(key % 2**64)
        for i, value in enumerate(found.tolist(), start=1):
            bits = scramble((start + i * 0x9E3779B97F4A7C15) % 2**64)
            assert value == ((bits >> 11) + 0.5) / 2**53
