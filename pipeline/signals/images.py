"""Converts encoded or raw images to signals of one size and number of channels."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.signals.decoding import Decoded, decode_image
from pipeline.signals.labels import NO_LABEL
from pipeline.signals.signals import Signals

logger = logging.getLogger(__name__)
Source = Path | bytes | np.ndarray | str
"""An image's file, bytes or pixels; or a text that says why there is none."""


def decode_images(
    names: Sequence[str], sources: Iterable[Source], size: int | None
) -> list[np.ndarray | str]:
    """The pixels of each image like `decode_image`, or a text that says why it cannot be decoded.

    A warning is logged if only the first frame of an image is used.
    """
    decoded = [
        decode_image(source, size)
        if isinstance(source, Path | bytes)
        else Decoded(of_size(source, size))
        for source in sources
    ]
    longer = [name for name, image in zip(names, decoded, strict=True) if image.has_more_frames]
    if longer:
        logger.warning(
            "only the first frame is used of %s images that have several, such as %s",
            f"{len(longer):,}",
            longer[0],
        )
    return [image.pixels for image in decoded]


def of_size(pixels: np.ndarray | str, size: int | None) -> np.ndarray | str:
    """`pixels`, or a text if their size is not `size`. Texts are returned unchanged."""
    if size is None or isinstance(pixels, str) or pixels.shape[:2] == (size, size):
        return pixels
    return (
        f"must be {size} x {size} (signals.size), found {pixels.shape[:2]}: arrays are not resized"
    )


def image_signals(
    name: str,
    names: Sequence[str],
    images: Sequence[np.ndarray | str],
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    splits: Sequence[str | None],
    taken: str,
) -> Signals:
    """Images `(height, width, channels)`, uint8 or float32 in [0, 1], as signals, grey or RGB.

    They are grey if all are grey. A text instead of an image says why it could not be read: it
    becomes a failure, with NaN values. So does an image without a label, if others have one.
    `splits` are the source's own splits. Raises InputError if no image could be read or they are
    not all of one size.
    """
    labels = np.asarray(labels, np.int64)
    if class_names:
        images = [
            "has no label" if label == NO_LABEL and not isinstance(image, str) else image
            for image, label in zip(images, labels, strict=True)
        ]
    failures = {i: image for i, image in enumerate(images) if isinstance(image, str)}
    shapes = {image.shape for image in images if not isinstance(image, str)}
    if not shapes:
        raise InputError(
            f"the images of {name} must be readable, found {len(images)} and none of them is; the "
            f"first: {names[0]} {failures[0]}"
        )
    sizes = sorted({shape[:2] for shape in shapes})
    if len(sizes) > 1:
        raise InputError(
            f"the images of {name} must be of one size, found {len(sizes)}, such as {sizes[0]} and "
            f"{sizes[-1]}: set signals.size, to which encoded images are resized"
        )
    values = np.full(
        (len(images), *sizes[0], max(shape[-1] for shape in shapes)), np.nan, np.float32
    )
    for value, image in zip(values, images, strict=True):
        if not isinstance(image, str):
            np.divide(image, 255 if image.dtype == np.uint8 else 1, out=value)
    return Signals(
        name,
        values,
        labels,
        tuple(class_names),
        members_of("test", splits),
        tuple(names),
        failures,
        members_of("validation", splits),
        taken,
    )


def members_of(split: str, splits: Sequence[str | None]) -> np.ndarray | None:
    """`(signals,)` bool: which signals are in the split; None if none is."""
    members = np.array([name == split for name in splits])
    return members if members.any() else None
