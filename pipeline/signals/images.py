"""From encoded or raw images to signals of one size and one number of channels."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.signals.signals import Signals

GREY_MODES = ("1", "L", "LA", "I", "I;16")


def decode_image(what: str, source: Path | bytes, size: int | None) -> np.ndarray:
    """`(height, width, 1 or 3)` uint8, resized to `size` x `size` where that is given.

    `what` names the image in the InputError that is raised where it cannot be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            pixels = image.convert("L" if image.mode in GREY_MODES else "RGB")
            if size is not None and pixels.size != (size, size):
                pixels = pixels.resize((size, size), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{what} cannot be decoded ({error}): replace it or take it out") from error
    values = np.asarray(pixels)
    return values[..., None] if values.ndim == 2 else values


def image_signals(
    name: str,
    images: Sequence[np.ndarray],
    labels: Sequence[int],
    class_names: Sequence[str],
    held_out: Sequence[bool] | None = None,
) -> Signals:
    """Images `(height, width, channels)` uint8 as signals: grey if all are grey, else RGB.

    Raises InputError where they are not all of one size or a label has no class.
    """
    sizes = sorted({image.shape[:2] for image in images})
    if len(sizes) > 1:
        raise InputError(
            f"the images of {name} must be of one size, found {len(sizes)}, such as {sizes[0]} and {sizes[-1]}: "
            "set signals.size, and they are resized"
        )
    labels = np.asarray(labels, np.int64)
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise InputError(f"the labels of {name} must be 0 to {len(class_names) - 1}, found {labels.min()} to {labels.max()}")
    channels = max(image.shape[-1] for image in images)
    values = np.empty((len(images), *sizes[0], channels), np.float32)
    for value, image in zip(values, images, strict=True):
        np.divide(image, 255, out=value)
    return Signals(name, values, labels, tuple(class_names), None if held_out is None else np.asarray(held_out, bool))
