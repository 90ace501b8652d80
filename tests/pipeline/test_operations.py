"""Operations on signals: known exact values, and properties of all operations."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from pipeline.config import Operation, SignalsConfig, SirenConfig, ZooConfig
from pipeline.errors import InputError
from pipeline.signals import load_signals, operated
from pipeline.signals.operations import OPERATIONS

pytestmark = pytest.mark.fast

GRIDS = ((9,), (8, 9), (6, 7, 5))


def point(value: float, ground: float) -> np.ndarray:
    """One point of another value in the middle of a 5x5 image."""
    values = np.full((1, 5, 5, 1), ground, np.float32)
    values[0, 2, 2] = value
    return values


def where(values: np.ndarray, value: float) -> list[tuple[int, int]]:
    return [tuple(place) for place in np.argwhere(values[0, ..., 0] == value).tolist()]


def test_a_configuration_knows_every_operation():
    assert get_args(Operation) == tuple(OPERATIONS)


def test_dilation_spreads_a_point_over_3x3_and_nothing_comes_in_at_the_border():
    assert where(OPERATIONS["dilate"](point(1, 0)), 1) == [
        (row, column) for row in (1, 2, 3) for column in (1, 2, 3)
    ]
    corner = np.full((1, 4, 4, 1), 0.5, np.float32)
    assert (OPERATIONS["dilate"](corner) == corner).all()
    assert (OPERATIONS["erode"](corner) == corner).all()


def test_erosion_and_gradient_have_the_anchor_of_opencv():
    """A 2x2 kernel covers a point and those before it: dark points spread down and right."""
    spread = [(2, 2), (2, 3), (3, 2), (3, 3)]
    assert where(OPERATIONS["erode"](point(0, 1)), 0) == spread
    assert where(OPERATIONS["gradient"](point(0, 1)), 1) == spread
    assert where(OPERATIONS["gradient"](point(1, 0)), 1) == spread


def test_a_rotation_is_counterclockwise():
    """A point to the right of the centre moves above it."""
    right = np.zeros((1, 21, 21, 1), np.float32)
    right[0, 10, 18] = 1
    row, column = np.unravel_index(OPERATIONS["rotate"](right)[0, ..., 0].argmax(), (21, 21))
    assert (row, column) == (6, 17)  # 8 points at 30 degrees


def test_half_the_resolution_keeps_the_mean_of_each_block():
    values = np.arange(15, dtype=np.float32).reshape(1, 3, 5, 1) / 15
    coarse = OPERATIONS["coarsen"](values)
    assert np.ptp(coarse[0, :2, :2]) == 0
    np.testing.assert_allclose(coarse[0, 0, 0], values[0, :2, :2].mean(), rtol=1e-6)
    np.testing.assert_allclose(coarse[0, 2, 4], values[0, 2, 4], rtol=1e-6)


def test_a_mask_hides_half_of_each_side_of_each_signal():
    masked = OPERATIONS["mask"](np.ones((20, 8, 8, 1), np.float32))
    assert ((masked == 0).sum((1, 2, 3)) == 16).all()
    assert len({signal.tobytes() for signal in masked}) > 5


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_signals_come_back_in_shape_and_range_and_each_by_itself(name, grid):
    values = np.random.default_rng(0).random((3, *grid, 2), np.float32)
    if name == "rotate" and len(grid) == 1:
        with pytest.raises(InputError, match="turns images and volumes"):
            OPERATIONS[name](values)
        return
    before = values.copy()
    result = OPERATIONS[name](values)
    assert (result.shape, result.dtype) == (values.shape, np.float32)
    assert result.min() >= 0
    assert result.max() <= 1
    assert (values == before).all()
    np.testing.assert_array_equal(OPERATIONS[name](values[:1]), result[:1])
    one_channel = OPERATIONS[name](values[..., 1:])
    if name != "contrast":  # about the mean of all channels
        np.testing.assert_array_equal(one_channel, result[..., 1:])
    assert name == "identity" or not np.array_equal(result, values)


def test_signals_keep_their_originals_and_change_their_digest_and_fingerprint():
    plain, config = load_signals(SignalsConfig(limit=20)), SignalsConfig(limit=20, operation="mask")
    masked = load_signals(config)
    np.testing.assert_array_equal(masked.originals, plain.values)
    np.testing.assert_array_equal(masked.values, OPERATIONS["mask"](plain.values))
    assert plain.originals is None
    assert masked.digest() != plain.digest()
    assert config.fingerprint() != SignalsConfig(limit=20).fingerprint()
    assert operated(masked, "mask") is masked
    assert replace(masked, originals=None).digest() == masked.digest()


def test_fields_that_were_added_leave_fingerprints_as_they_were():
    assert ZooConfig().fingerprint() == "f144631e"
    assert "operation" not in SignalsConfig().identity()
    added = {"output_scale": 0.05, "coordinate_range": (0.0, 1.0)}
    assert not {*added} & {*SirenConfig().identity()}
    changed = [SirenConfig(**{name: value}) for name, value in added.items()]
    assert len({inr.fingerprint() for inr in (SirenConfig(), *changed)}) == 3
    assert changed[0].identity()["output_scale"] == 0.05
