"""Waves and shapes match their formulas, and every picture of them can be drawn."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import SignalsConfig
from pipeline.figures.picture import picture
from pipeline.figures.signals import draw_signal
from pipeline.signals import coordinates, load_signals
from pipeline.signals.analytic import FREQUENCIES, SHAPES, wave_parameters

POINTS = np.random.default_rng(0).uniform(-1.5, 1.5, (2000, 3))


@pytest.mark.parametrize("source", ["sines", "waves"])
def test_waves_are_their_formula_and_their_class_is_the_band_of_the_frequency(source):
    signals = load_signals(SignalsConfig(source=source, size=50))
    amplitude, frequency = wave_parameters()
    assert len(signals) == len(frequency) == 10_000
    x = np.linspace(-np.pi, np.pi, 50)
    a = 1 if source == "sines" else amplitude[17]
    np.testing.assert_allclose(
        2 * signals.values[17, :, 0] - 1, a * np.sin(frequency[17] * x), atol=1e-5
    )
    low, high = FREQUENCIES
    width = (high - low) / len(signals.class_names)
    assert ((frequency - low) // width == signals.labels).all()
    assert np.unique(signals.labels).tolist() == list(range(8))


def test_facts_of_waves_are_what_can_be_measured_on_them():
    """Amplitude in units of 1/20 of the range of values, frequency in periods over [-pi, pi]."""
    signals = load_signals(SignalsConfig(source="waves", size=2000, limit=200))
    facts = signals.facts
    height = np.ptp(signals.values[..., 0], axis=1)
    long = facts["frequency"] > 1  # half a period of the others does not reach both peaks
    np.testing.assert_allclose(facts["amplitude"][long], 10 * height[long], rtol=1e-3)
    x = np.linspace(-np.pi, np.pi, 2000)
    sine = np.sin(facts["frequency"][:, None] * x)
    np.testing.assert_allclose(
        20 * signals.values[..., 0] - 10, facts["amplitude"][:, None] * sine, atol=1e-4
    )
    assert [*load_signals(SignalsConfig(source="sines", size=4)).facts] == ["frequency"]


def test_wide_waves_are_of_all_amplitudes_and_frequencies_from_0_to_10():
    """As in the paper, where the mean has a squared error of 100 / 12 = 8.33 for both."""
    signals = load_signals(SignalsConfig(source="wide-waves", size=30))
    amplitude, frequency = (signals.facts[name] for name in ("amplitude", "frequency"))
    sine = np.sin(frequency[:, None] * np.linspace(-np.pi, np.pi, 30))
    np.testing.assert_allclose(
        20 * signals.values[..., 0] - 10, amplitude[:, None] * sine, atol=1e-4
    )
    assert len(signals) == 10_000
    for fact in (amplitude, frequency):
        assert 0 <= fact.min() < 0.01
        assert 9.99 < fact.max() < 10
        assert fact.var() == pytest.approx(100 / 12, rel=0.02)
    assert abs(np.corrcoef(amplitude, frequency)[0, 1]) < 0.03
    assert (np.floor(frequency / 1.25) == signals.labels).all()
    assert signals.class_names[0] == "b 0.0 to 1.2"


def test_facts_of_shapes_say_where_they_are_and_how_large():
    signals = load_signals(SignalsConfig(source="occupancy", size=24, limit=30))
    inside = signals.values.reshape(30, -1)
    centre = inside @ coordinates((24,) * 3) / inside.sum(1, keepdims=True)
    found = np.stack([signals.facts[f"centre_{axis}"] for axis in "xyz"], 1)
    np.testing.assert_allclose(found, centre, atol=0.05)
    spheres = signals.labels == signals.class_names.index("sphere")
    volume = 4 / 3 * np.pi * signals.facts["scale"][spheres] ** 3
    np.testing.assert_allclose(inside[spheres].sum(1) * (2 / 23) ** 3, volume, rtol=0.05)


@pytest.mark.parametrize("source", ["sines", "waves", "wide-waves", "distances", "occupancy"])
def test_formulas_have_the_digests_that_they_had_before_there_were_facts(source):
    signals = load_signals(SignalsConfig(source=source, size=4, limit=20))
    assert signals.facts
    assert signals.digest() == replace(signals, facts={}).digest()
    assert signals.digest() != replace(signals, by_formula=False).digest()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_a_distance_grows_as_fast_as_one_moves_and_is_negative_inside(shape):
    distance, step = shape(POINTS), 1e-5
    slope = np.stack([(shape(POINTS + step * axis) - distance) / step for axis in np.eye(3)], -1)
    np.testing.assert_allclose(np.median(np.linalg.norm(slope, axis=-1)), 1, atol=1e-3)
    assert np.linalg.norm(slope, axis=-1).max() < 1.01
    assert 0.02 < (distance < 0).mean() < 0.5
    # One step of so far along the slope ends at the surface.
    surface = np.abs(shape(POINTS - distance[:, None] * slope))
    assert np.median(surface) < 1e-3


def test_shapes_fill_the_same_places_as_distances_and_as_occupancy():
    distances, occupancy = (
        load_signals(SignalsConfig(source=source, size=8)) for source in ("distances", "occupancy")
    )
    assert ((distances.values < 0.5) == (occupancy.values == 1)).all()
    assert (distances.labels == occupancy.labels).all()
    assert len({tuple(row) for row in distances.values[::5].reshape(800, -1).tolist()}) == 800
    assert distances.grid == (8, 8, 8)
    assert load_signals(SignalsConfig(source="distances", size=8)).digest() == distances.digest()
    assert np.bincount(distances.labels).tolist() == [800] * 5
    assert (
        len(np.unique(load_signals(SignalsConfig(source="distances", size=8, limit=40)).labels))
        == 5
    )


@pytest.mark.parametrize("grid", [(9,), (9, 9), (9, 9, 9)], ids=len)
def test_signals_on_a_line_a_plane_and_in_space_can_be_drawn(tmp_path, grid):
    values = coordinates(grid)[:, :1].reshape(*grid, 1)
    with picture(tmp_path / "drawn.png", 2, 2) as figure:
        draw_signal(figure.subplots(), values, "a slope")
    assert (tmp_path / "drawn.png").stat().st_size > 1000
