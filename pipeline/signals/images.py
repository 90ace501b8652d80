"""From encoded or raw images to signals of one size and one number of channels."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.signals.decoding import Decoded, decode_image
from pipeline.signals.signals import Signals

logger = logging.getLogger(__name__)
Encoded = Path | bytes | str
"""An image's file or its bytes; a text in the place of an image says why there is none."""


def name_below(root: Path, file: Path, row: int | None = None) -> str:
    """The name of a signal: the path of its file below `root`, with `:ROW` where the file holds many.

    Bytes that are not UTF-8 are written as `\\xNN`.
    """
    path = os.fsencode(file.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")
    return path if row is None else f"{path}:{row}"


def decode_images(
    names: Sequence[str], sources: Iterable[Encoded], size: int | None
) -> list[np.ndarray | str]:
    """The pixels of each image as `decode_image` has them, in the place of one that cannot be decoded why.

    A warning names images of which only the first frame is taken.
    """
    decoded = [
        Decoded(source) if isinstance(source, str) else decode_image(source, size)
        for source in sources
    ]
    longer = [name for name, image in zip(names, decoded, strict=True) if image.has_more_frames]
    if longer:
        logger.warning(
            "the first frame is taken of %s images that have several, such as %s",
            f"{len(longer):,}",
            longer[0],
        )
    return [image.pixels for image in decoded]


def image_signals(
    name: str,
    names: Sequence[str],
    images: Sequence[np.ndarray | str],
    labels: Sequence[int],
    class_names: Sequence[str],
    held_out: Sequence[bool] | None = None,
) -> Signals:
    """Images `(height, width, channels)`, uint8 or float32 in [0, 1], as signals: grey if all are grey, else RGB.

    A text in the place of an image says why it could not be read: it becomes NaN, and a failure.

    Raises InputError where none could be read, where they are not all of one size, or where a label has no class.
    """
    failures = {i: image for i, image in enumerate(images) if isinstance(image, str)}
    shapes = {image.shape for image in images if not isinstance(image, str)}
    if not shapes:
        raise InputError(
            f"the images of {name} must be readable, found {len(images)} of which none is; the first: "
            f"{names[0]} {failures[0]}"
        )
    sizes = sorted({shape[:2] for shape in shapes})
    if len(sizes) > 1:
        raise InputError(
            f"the images of {name} must be of one size, found {len(sizes)}, such as {sizes[0]} and {sizes[-1]}: "
            "set signals.size, and they are resized"
        )
    labels = np.asarray(labels, np.int64)
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise InputError(
            f"the labels of {name} must be 0 to {len(class_names) - 1}, found {labels.min()} to {labels.max()}"
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
        None if held_out is None else np.asarray(held_out, bool),
        tuple(names),
        failures,
    )
