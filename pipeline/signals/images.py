"""From encoded or raw images to signals of one size and one number of channels."""

import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.signals.signals import Signals

GREY_MODES = ("1", "L", "LA", "I", "I;16")
logger = logging.getLogger(__name__)


def decode_images(
    sources: Iterable[tuple[str, Path | bytes]], size: int | None
) -> list[np.ndarray | None]:
    """Each of the named images as `decode_image` has it, None where it cannot be decoded; one warning says how many.

    Raises InputError where none can be decoded.
    """
    images, problems = [], []
    for what, source in sources:
        try:
            images.append(decode_image(what, source, size))
        except InputError as problem:
            images.append(None)
            problems.append(problem)
    if problems and len(problems) == len(images):
        raise problems[0]
    if problems:
        logger.warning(
            "%d of %d images will have no INR; the first: %s",
            len(problems),
            len(images),
            problems[0],
        )
    return images


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
        raise InputError(
            f"{what} cannot be decoded ({error}): replace it or take it out"
        ) from error
    values = np.asarray(pixels)
    return values[..., None] if values.ndim == 2 else values


def image_signals(
    name: str,
    images: Sequence[np.ndarray | None],
    labels: Sequence[int],
    class_names: Sequence[str],
    held_out: Sequence[bool] | None = None,
) -> Signals:
    """Images `(height, width, channels)` uint8 as signals: grey if all are grey, else RGB; None becomes NaN.

    Raises InputError where they are not all of one size or a label has no class.
    """
    shapes = {image.shape for image in images if image is not None}
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
        if image is not None:
            np.divide(image, 255, out=value)
    return Signals(
        name,
        values,
        labels,
        tuple(class_names),
        None if held_out is None else np.asarray(held_out, bool),
    )
