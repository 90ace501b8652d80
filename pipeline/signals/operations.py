"""Operations on signals: functions from `(signals, *grid, channels)` in [0, 1] to the same.

INRs are fitted to signals after an operation (`signals.operation`), and the target of an editor is
an operation on the original (`task.operation`): it learns to dilate the image of an INR, or to
complete one that was fitted to a masked image.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy  # whose parts load when they are used

from pipeline.config import Operation
from pipeline.errors import InputError
from pipeline.signals.signals import Signals

ANGLE, SIGMA, GAIN = 30.0, 1.0, 2.0
"""Degrees of `rotate`, points of `blur`, factor of `contrast`."""
HIDDEN = 0.5
"""Share of each side of the grid that `mask` hides."""


def operated(signals: Signals, operation: Operation) -> Signals:
    """Signals after an operation, with their `originals`; unchanged for 'identity' or if done.

    Raises InputError if the operation does not support their kind of grid.
    """
    if operation == "identity" or signals.originals is not None:
        return signals
    values = OPERATIONS[operation](signals.values)
    return replace(signals, values=values, originals=signals.values)


def identity(values: np.ndarray) -> np.ndarray:
    """The signals as they are."""
    return values


def dilate(values: np.ndarray) -> np.ndarray:
    """The maximum of each 3x3 neighbourhood (3 points on a line), like `cv2.dilate` with ones."""
    return scipy.ndimage.maximum_filter(values, window(values, 3), mode="nearest")


def erode(values: np.ndarray) -> np.ndarray:
    """The minimum of each point and its predecessors along each axis.

    This is `cv2.erode` with 2x2 ones, whose anchor is (1, 1).
    """
    return scipy.ndimage.minimum_filter(values, window(values, 2), mode="nearest")


def gradient(values: np.ndarray) -> np.ndarray:
    """The morphological gradient over 2x2 points: maximum minus minimum, `cv2.MORPH_GRADIENT`."""
    return scipy.ndimage.maximum_filter(values, window(values, 2), mode="nearest") - erode(values)


def blur(values: np.ndarray) -> np.ndarray:
    """A Gaussian blur with a standard deviation of one point."""
    sigmas = (0, *(SIGMA for _ in values.shape[1:-1]), 0)
    return scipy.ndimage.gaussian_filter(values, sigmas, mode="nearest")


def contrast(values: np.ndarray) -> np.ndarray:
    """Double the distance to each signal's mean, clipped to [0, 1], like `ImageEnhance.Contrast`.

    Errors are not comparable with the published experiment on CIFAR-10 (Zhou et al. 2023), whose
    target is OpenCV's CLAHE of the lightness, a local histogram equalization.
    """
    mean = values.mean(tuple(range(1, values.ndim)), keepdims=True)
    return np.clip(mean + GAIN * (values - mean), 0, 1)


def rotate(values: np.ndarray) -> np.ndarray:
    """Rotate by 30 degrees in the plane of the first two axes, filling with 0.

    Images turn counterclockwise. Raises InputError if the signals have fewer than two axes.
    """
    if values.ndim < 4:
        raise InputError(
            "operation 'rotate' turns images and volumes, found signals on a grid "
            f"{values.shape[1:-1]}: choose another operation"
        )
    turned = scipy.ndimage.rotate(
        values, ANGLE, axes=(2, 1), reshape=False, order=1, mode="constant"
    )
    return np.clip(turned, 0, 1)


def mask(values: np.ndarray) -> np.ndarray:
    """Set a box of half of each side to 0, at a random place seeded by the signal's position."""
    masked = values.copy()
    for position, signal in enumerate(masked):
        rng = np.random.default_rng(position)
        box = []
        for size in signal.shape[:-1]:
            hidden = round(HIDDEN * size)
            start = rng.integers(size - hidden + 1)
            box.append(slice(start, start + hidden))
        signal[*box] = 0
    return masked


def coarsen(values: np.ndarray) -> np.ndarray:
    """Halve the resolution: replace each block of 2x2 points by its mean."""
    for axis in range(1, values.ndim - 1):
        starts = np.arange(0, values.shape[axis], 2)
        counts = np.diff(starts, append=values.shape[axis])
        shape = [-1 if dim == axis else 1 for dim in range(values.ndim)]
        means = np.add.reduceat(values, starts, axis) / counts.astype(np.float32).reshape(shape)
        values = np.repeat(means, counts, axis)
    return values


def window(values: np.ndarray, size: int) -> tuple[int, ...]:
    """The size of a filter: `size` points along each axis of the grid, one signal, one channel."""
    return (1, *(size for _ in values.shape[1:-1]), 1)


OPERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    operation.__name__: operation
    for operation in (
        identity,
        dilate,
        erode,
        gradient,
        blur,
        contrast,
        rotate,
        mask,
        coarsen,
    )
}
