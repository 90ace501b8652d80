"""From encoded or raw images to signals of one size and one number of channels."""

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.signals.signals import Signals

GREY_MODES = ("1", "L", "LA", "I", "I;16")
Encoded = Path | bytes | str
"""An image's file or its bytes; a text in the place of an image says why there is none."""


def name_below(root: Path, file: Path, row: int | None = None) -> str:
    """The name of a signal: the path of its file below `root`, with `:ROW` where the file holds many.

    Bytes that are not UTF-8 are written as `\\xNN`.
    """
    path = os.fsencode(file.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")
    return path if row is None else f"{path}:{row}"


def decode_images(sources: Iterable[Encoded], size: int | None) -> list[np.ndarray | str]:
    """Each of the images as `decode_image` has it, in the place of one that cannot be decoded why."""
    return [source if isinstance(source, str) else decode_image(source, size) for source in sources]


def decode_image(source: Path | bytes, size: int | None) -> np.ndarray | str:
    """`(height, width, 1 or 3)` uint8, resized to `size` x `size` where that is given; or why it cannot be decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            pixels = image.convert("L" if image.mode in GREY_MODES else "RGB")
            if size is not None and pixels.size != (size, size):
                pixels = pixels.resize((size, size), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        return f"cannot be decoded ({error})"
    values = np.asarray(pixels)
    return values[..., None] if values.ndim == 2 else values


def image_signals(
    name: str,
    names: Sequence[str],
    images: Sequence[np.ndarray | str],
    labels: Sequence[int],
    class_names: Sequence[str],
    held_out: Sequence[bool] | None = None,
) -> Signals:
    """Images `(height, width, channels)` uint8 as signals: grey if all are grey, else RGB.

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
            np.divide(image, 255, out=value)
    return Signals(
        name,
        values,
        labels,
        tuple(class_names),
        None if held_out is None else np.asarray(held_out, bool),
        tuple(names),
        failures,
    )
