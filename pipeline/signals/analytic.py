"""Signals given by formulas: waves on a line and solid shapes in space.

Signal `i` depends on `i` alone.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from pipeline.signals.signals import Signals, coordinates

NUM_WAVES, NUM_BANDS, WAVE_POINTS = 10_000, 8, 2000
FREQUENCIES, AMPLITUDES = (0.5, 10.0), (0.1, 1.0)
"""Ranges of uniform distributions: cycles over [-pi, pi], and the height of a wave."""
RANGE = 10.0
"""Values of the self-supervised experiment are in [-RANGE, RANGE], frequencies in [0, RANGE]."""
NUM_SHAPES, SHAPE_POINTS = 4_000, 16
CENTRE = ("centre_x", "centre_y", "centre_z")
SEED = 7


def wave_parameters(count: int = NUM_WAVES) -> tuple[np.ndarray, np.ndarray]:
    """`(count,)` amplitudes a and frequencies b of the first waves a sin(bx)."""
    drawn = np.random.default_rng([SEED, 0]).random((count, 2))
    ranges = np.array([AMPLITUDES, FREQUENCIES])
    return tuple((ranges[:, 0] + drawn * (ranges[:, 1] - ranges[:, 0])).T)


def load_sines(size: int | None) -> Signals:
    """sin(bx), as in the frequency regression of Navon et al. 2023. Fact: `frequency`, b."""
    _, frequency = wave_parameters()
    facts = {"frequency": frequency}
    return waves("sines", np.ones(NUM_WAVES), frequency, size or WAVE_POINTS, facts)


def load_waves(size: int | None) -> Signals:
    """a sin(bx), as in the self-supervised experiment of Navon et al. 2023.

    Facts: `frequency`, b; and `amplitude`, from 1 to 10, of the wave in the units of the
    experiment, which draws both from U(0, 10): the values are (1 + wave / 10) / 2.
    """
    height, frequency = wave_parameters()
    facts = {"amplitude": RANGE * height, "frequency": frequency}
    return waves("waves", height, frequency, size or WAVE_POINTS, facts)


def load_wide_waves(size: int | None) -> Signals:
    """`waves` with both from U(0, 10), as in that experiment: some waves are almost constant."""
    height, share = np.random.default_rng([SEED, 3]).random((2, NUM_WAVES))
    facts = {"amplitude": RANGE * height, "frequency": RANGE * share}
    points = size or WAVE_POINTS
    return waves("wide-waves", height, facts["frequency"], points, facts, (0.0, RANGE))


def waves(
    name: str,
    amplitude: np.ndarray,
    frequency: np.ndarray,
    points: int,
    facts: Mapping[str, np.ndarray],
    frequencies: tuple[float, float] = FREQUENCIES,
) -> Signals:
    """(1 + a sin(bx)) / 2 for x in [-pi, pi]; the class is the band of the frequency."""
    x = np.pi * coordinates((points,)).T
    values = np.empty((len(frequency), points, 1), np.float32)
    values[..., 0] = (1 + amplitude[:, None] * np.sin(frequency[:, None] * x)) / 2
    edges = np.linspace(*frequencies, NUM_BANDS + 1)
    names = tuple(f"b {low:.1f} to {high:.1f}" for low, high in pairwise(edges))
    labels = np.searchsorted(edges, frequency, side="right") - 1
    return Signals(name, values, labels, names, facts=facts, by_formula=True)


def sphere(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points, axis=-1) - 1


def box(points: np.ndarray) -> np.ndarray:
    outside = np.abs(points) - np.array([1.0, 0.7, 0.5])
    return np.linalg.norm(outside.clip(0), axis=-1) + outside.max(-1).clip(max=0)


def torus(points: np.ndarray) -> np.ndarray:
    ring = np.linalg.norm(points[..., :2], axis=-1) - 0.7
    return np.hypot(ring, points[..., 2]) - 0.3


def cylinder(points: np.ndarray) -> np.ndarray:
    outside = np.stack(
        [np.linalg.norm(points[..., :2], axis=-1) - 0.5, np.abs(points[..., 2]) - 0.9], -1
    )
    return np.linalg.norm(outside.clip(0), axis=-1) + outside.max(-1).clip(max=0)


def capsule(points: np.ndarray) -> np.ndarray:
    along = points[..., 2].clip(-0.6, 0.6)
    return np.sqrt((points[..., :2] ** 2).sum(-1) + (points[..., 2] - along) ** 2) - 0.4


SHAPES: tuple[Callable[[np.ndarray], np.ndarray], ...] = (sphere, box, torus, cylinder, capsule)
"""Signed distances, negative inside, to shapes with a radius of about 1."""


def load_distances(size: int | None) -> Signals:
    """Signed distances d to rotated, shifted and scaled shapes, as (1 + d) / 2 clipped to [0, 1].

    The surface is at 1/2.
    """
    return shapes(
        "distances", size or SHAPE_POINTS, lambda distance: ((1 + distance) / 2).clip(0, 1)
    )


def load_occupancy(size: int | None) -> Signals:
    """1 inside the shapes of `load_distances`, 0 outside."""
    return shapes("occupancy", size or SHAPE_POINTS, lambda distance: distance < 0)


def shapes(name: str, points: int, value: Callable[[np.ndarray], np.ndarray]) -> Signals:
    """Values on a cube with `points` points per side; the class is the kind of shape.

    Facts, in coordinates from -1 to 1: `scale`, about the radius of the shape; and its centre,
    `centre_x`, `centre_y` and `centre_z`, along the first, second and third axis of the grid.
    """
    grid = coordinates((points,) * 3).astype(np.float64)
    labels = np.random.default_rng([SEED, 2]).permutation(NUM_SHAPES) % len(SHAPES)
    values = np.empty((NUM_SHAPES, len(grid)), np.float32)
    scales, centres = np.empty(NUM_SHAPES), np.empty((NUM_SHAPES, 3))
    for i, label in enumerate(labels):
        drawn = np.random.default_rng([SEED, 1, i])
        turn, _ = np.linalg.qr(drawn.standard_normal((3, 3)))
        scales[i], centres[i] = drawn.uniform(0.4, 0.7), drawn.uniform(-0.25, 0.25, 3)
        scale, centre = scales[i], centres[i]
        values[i] = value(scale * SHAPES[label]((grid - centre) @ turn / scale))
    names = tuple(shape.__name__ for shape in SHAPES)
    return Signals(
        name,
        values.reshape(NUM_SHAPES, points, points, points, 1),
        labels.astype(np.int64),
        names,
        facts={"scale": scales} | dict(zip(CENTRE, centres.T.copy(), strict=True)),
        by_formula=True,
    )
