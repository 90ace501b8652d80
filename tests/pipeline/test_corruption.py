"""Corruptions of images: functions of the image's key, compared with other libraries."""

import colorsys
from typing import get_args

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.fit import seeds
from pipeline.tasks.adaptation import Corruption
from pipeline.tasks.corruption import CORRUPTIONS, corrupt, turned_hue

pytestmark = pytest.mark.fast

KEYS = seeds.derive(np.arange(200, dtype=np.uint64), 1)
COLOURS = torch.rand(200, 3, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_corruption_is_a_function_of_image_and_key(name, channels):
    images = COLOURS[:, :channels]
    corrupted = corrupt(images, KEYS, [name])
    assert corrupted.shape == images.shape
    assert ((corrupted >= 0) & (corrupted <= 1)).all()
    part = np.array([150, 3, 77])
    torch.testing.assert_close(corrupt(images[part], KEYS[part], [name]), corrupted[part])
    assert not torch.equal(corrupted, images)
    drawn = corrupt(images[:1].expand(200, -1, -1, -1), KEYS, [name])
    assert (drawn == drawn[:1]).all() == (name == "inversion")


def test_a_recipe_may_name_every_corruption():
    assert set(get_args(Corruption)) == set(CORRUPTIONS)


def test_corruptions_follow_one_another():
    both = corrupt(COLOURS, KEYS, ["blur", "inversion"])
    torch.testing.assert_close(both, 1 - corrupt(COLOURS, KEYS, ["blur"]))
    assert not torch.equal(both, corrupt(COLOURS, KEYS, ["inversion", "rotation"]))


def test_rotation_is_about_the_centre_to_either_side():
    images = torch.zeros(200, 1, 33, 33)
    images[:, :, 16, 16:] = 1  # a ray to the right
    turned = corrupt(images, KEYS, ["rotation"])
    rows, columns = (
        x.double() - 16 for x in torch.meshgrid(*[torch.arange(33)] * 2, indexing="ij")
    )
    y, x = ((turned[:, 0] * axis).sum((1, 2)) for axis in (rows, columns))
    angle = torch.rad2deg(torch.atan2(y, x))
    assert -75.5 <= angle.min() < -60
    assert 60 < angle.max() <= 75.5
    lengths = turned.sum((1, 2, 3))  # nearest pixels: a diagonal is shorter by up to 1 / sqrt(2)
    assert ((lengths >= 11) & (lengths <= 24)).all()
    assert abs(float(angle.mean())) < 15


def test_blur_is_scipys_gaussian_of_three_pixels():
    sigma = 0.1 + 1.9 * (
        seeds.uniform(seeds.derive(KEYS, list(CORRUPTIONS).index("blur")), 1) / 2 + 0.5
    )
    blurred = corrupt(COLOURS, KEYS, ["blur"])
    for i in (0, 11, 42):
        one = ndimage.gaussian_filter(
            COLOURS[i].numpy(), (0, *[float(sigma[i, 0])] * 2), mode="mirror", radius=(0, 1, 1)
        )
        np.testing.assert_allclose(blurred[i].numpy(), one, atol=1e-5)


def test_hue_turns_as_in_colorsys():
    turn = torch.linspace(-0.25, 0.25, 200).view(-1, 1, 1, 1)
    turned = turned_hue(COLOURS, turn)
    for i in range(0, 200, 17):
        hue, saturation, value = colorsys.rgb_to_hsv(*COLOURS[i, :, 4, 5].tolist())
        expected = colorsys.hsv_to_rgb((hue + float(turn[i])) % 1, saturation, value)
        np.testing.assert_allclose(turned[i, :, 4, 5].numpy(), expected, atol=1e-5)
    grey = torch.full((1, 3, 2, 2), 0.3)
    torch.testing.assert_close(turned_hue(grey, turn[:1]), grey)


def test_half_of_the_images_are_flipped_along_each_axis():
    flipped = corrupt(COLOURS, KEYS, ["flips"])
    ways = {(): 0, (1,): 0, (2,): 0, (1, 2): 0}
    for i in range(200):
        found = [dims for dims in ways if torch.equal(COLOURS[i].flip(dims), flipped[i])]
        assert len(found) == 1
        ways[found[0]] += 1
    assert all(30 < count < 70 for count in ways.values())


def test_noise_has_the_spread_it_says():
    noisy = corrupt(torch.full((200, 1, 9, 7), 0.5), KEYS, ["noise"])
    inner = noisy[(noisy > 0) & (noisy < 1)] - 0.5
    assert float((noisy == 1).float().mean()) == pytest.approx(0.0478, abs=0.01)  # beyond 5/3 std
    assert abs(float(inner.mean())) < 0.01
