"""A folder of PNG or JPEG images, one subfolder a class: your own images."""

from pathlib import Path

import numpy as np

from pipeline.config import SignalsConfig
from pipeline.errors import InputError
from pipeline.signals.signals import Signals

SUFFIXES = (".png", ".jpg", ".jpeg")


def load_folder(config: SignalsConfig) -> Signals:
    """Every image below `path/CLASS/`, in the order of its name, resized to `size` x `size`.

    Grey if all images are grey, else RGB. Raises InputError for a folder without such images or for the first image
    that cannot be decoded.
    """
    if config.path is None:
        raise InputError("signals.path must name a folder of images for source 'folder', got null")
    root = config.path
    if not root.is_dir():
        raise InputError(f"signals.path must be a folder with one subfolder of images a class, found none at {root}")
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((root / name).iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise InputError(f"{root} must hold PNG or JPEG images in one subfolder a class, found none")
    images = [read_image(file, config.size) for file, _ in files]
    channels = max(image.shape[-1] for image in images)
    return Signals(
        name=root.resolve().name,
        values=np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images]),
        labels=np.array([label for _, label in files], np.int64),
        class_names=tuple(classes),
    )


def read_image(file: Path, size: int) -> np.ndarray:
    """`(size, size, 1 or 3)` float32 in [0, 1]. Raises InputError that names the file where it cannot be decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            grey = image.mode in ("1", "L", "LA", "I", "I;16")
            pixels = image.convert("L" if grey else "RGB").resize((size, size), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"image {file} cannot be decoded ({error}): replace it or take it out of the folder") from error
    values = np.asarray(pixels, np.float32) / 255
    return values[..., None] if values.ndim == 2 else values
