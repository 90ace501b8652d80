"""Augmentations do what they say: exact ones by rendering, random ones by their mean and variance."""

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
from dwsnet.symmetry import permute, random_permutations
from dwsnet.weight_space import WeightSpace
from tests.dwsnet.small_networks import largest_difference, random_network, render, siren

SPACE = WeightSpace.mlp((2, 6, 5, 3))
POINTS = torch.rand(13, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64) * 2 - 1
SEEDS = st.integers(0, 2**31)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inrs(batch: int = 4, seed: int = 0):
    return random_network(SPACE, batch, seed, spread=0.1)


AUGMENTATIONS = {
    "permute_hidden": lambda x, rng: permute_hidden(SPACE, x, rng),
    "flip_signs": lambda x, rng: flip_signs(SPACE, x, rng),
    "add_noise": lambda x, rng: add_noise(SPACE, x, rng, 0.1),
    "mask": lambda x, rng: mask(SPACE, x, rng, 0.1),
    "shift": lambda x, rng: move_picture(
        SPACE, x, torch.eye(2).expand(len(x[0]), 2, 2), random_shifts(len(x[0]), 2, rng, 0.2)
    ),
    "rotate": lambda x, rng: move_picture(
        SPACE, x, random_rotations(len(x[0]), rng, 0.7), torch.zeros(len(x[0]), 2)
    ),
    "zoom": lambda x, rng: move_picture(
        SPACE, x, random_zooms(len(x[0]), 2, rng, 1.3), torch.zeros(len(x[0]), 2)
    ),
    "mixup": lambda x, rng: mixup(SPACE, x, torch.eye(len(x[0])), rng, 0.4)[0],
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_are_pure_and_follow_the_generator(name):
    tensors = tuple(x.float() for x in inrs())
    before = [x.clone() for x in tensors]
    one, again, other = (AUGMENTATIONS[name](tensors, generator(seed)) for seed in (1, 1, 2))
    assert largest_difference(tensors, before) == 0
    assert largest_difference(one, again) == 0
    assert largest_difference(one, other) > 1e-3
    assert [(x.shape, x.dtype) for x in one] == [(x.shape, x.dtype) for x in tensors]


@pytest.mark.parametrize(
    "name", ["permute_hidden", "flip_signs", "add_noise", "mask", "shift", "rotate", "zoom"]
)
def test_members_are_augmented_each_in_its_own_way(name):
    tensors = tuple(x[:1].expand(6, *x.shape[1:]) for x in inrs())
    augmented = AUGMENTATIONS[name](tensors, generator())
    assert len(torch.cat([x.flatten(1) for x in augmented], 1).unique(dim=0)) == 6


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_permutations_and_signs_keep_the_function(seed):
    tensors = inrs(seed=seed)
    for name in ("permute_hidden", "flip_signs"):
        moved = AUGMENTATIONS[name](tensors, generator(seed))
        assert torch.allclose(
            render(moved, POINTS, siren), render(tensors, POINTS, siren), atol=1e-9
        )


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_picture_moves_exactly_as_it_says(seed):
    tensors, rng = inrs(seed=seed), generator(seed)
    linear = random_rotations(4, rng, 3.0) @ random_zooms(4, 2, rng, 1.5)
    shift = random_shifts(4, 2, rng, 0.5)
    moved = move_picture(SPACE, tensors, linear, shift)
    new_points = POINTS @ linear.transpose(1, 2) + shift.unsqueeze(1)
    assert torch.allclose(
        render(moved, new_points, siren), render(tensors, POINTS, siren), atol=1e-8
    )
    assert (render(moved, POINTS, siren) - render(tensors, POINTS, siren)).abs().max() > 1e-3


def test_random_motions_have_the_size_they_say():
    shift, rotation, zoom = (
        random_shifts(4000, 2, generator(), 0.3),
        random_rotations(4000, generator(), 0.5),
        random_zooms(4000, 3, generator(), 2.0),
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
    for x, y in zip(tensors, add_noise(space, tensors, generator(), 0.25), strict=True):
        noise = ((y - x) / (0.25 * x.std())).flatten()
        standard_error = noise.numel() ** -0.5
        assert noise.mean().abs() < 5 * standard_error
        assert (noise.square().mean() - 1).abs() < 8 * standard_error
        assert (noise.pow(4).mean() - 3).abs() < 50 * standard_error


def test_noise_on_a_tensor_that_does_not_vary_is_none():
    tensors = [torch.full_like(x, i) for i, x in enumerate(inrs())]
    assert largest_difference(add_noise(SPACE, tensors, generator(), 0.5), tensors) == 0


def test_masks_hide_the_share_asked_for_and_leave_the_rest():
    space = WeightSpace.mlp((4, 40, 30, 10))
    tensors = random_network(space, 100, 0)
    for x, y in zip(tensors, mask(space, tensors, generator(), 0.3), strict=True):
        hidden = y == 0
        assert (hidden.double().mean() - 0.3).abs() < 5 * (0.21 / x.numel()) ** 0.5
        assert torch.equal(y[~hidden], x[~hidden])


def test_mixup_lies_between_a_member_and_its_aligned_partner_and_so_do_the_targets():
    tensors, targets = inrs(8), torch.eye(8, dtype=torch.float64)
    mixed, soft = mixup(SPACE, tensors, targets, generator(), 1.0)
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
    moved = permute(SPACE, tensors, random_permutations(SPACE, 5, generator()))
    mixed, _ = mixup(SPACE, moved, torch.eye(5), generator(1), 1.0)
    assert torch.allclose(render(mixed, POINTS, siren), render(tensors, POINTS, siren), atol=1e-9)


def test_a_concentration_of_zero_mixes_nothing_and_what_is_no_number_is_refused():
    space = WeightSpace.mlp((2, 5, 4, 3))
    tensors, targets = random_network(space, 4, 0), torch.eye(4)
    mixed, soft = mixup(space, tensors, targets, torch.Generator().manual_seed(0), 0.0)
    assert largest_difference(mixed, tensors) == 0
    assert torch.equal(soft, targets)
    mixed, _ = mixup(space, tensors, targets, torch.Generator().manual_seed(0), 1e-300)
    assert all(x.isfinite().all() for x in mixed)
    for wrong in (-1.0, float("nan"), float("inf")):
        generator = torch.Generator().manual_seed(0)
        with pytest.raises(ValueError, match=f"concentration must be a finite .* got {wrong}"):
            mixup(space, tensors, targets, generator, wrong)
        with pytest.raises(ValueError, match=f"scale must be a finite number .* got {wrong}"):
            add_noise(space, tensors, generator, wrong)
        with pytest.raises(ValueError, match="largest must be a finite number above 0"):
            random_zooms(4, 2, generator, wrong)
