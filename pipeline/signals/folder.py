"""A folder of PNG or JPEG images, one subfolder a class: your own images."""

from pathlib import Path

from pipeline.errors import InputError
from pipeline.signals.images import decode_images, image_signals, name_below
from pipeline.signals.signals import Signals

SUFFIXES = (".png", ".jpg", ".jpeg")


def load_folder(path: Path, size: int | None) -> Signals:
    """Every image below `path/CLASS/`, in the order of class and file name.

    Raises InputError for a folder without such images, or where none can be decoded.
    """
    classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((path / name).iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise InputError(
            f"{path} must hold PNG or JPEG images in one subfolder a class, found none"
        )
    names = [name_below(path, file) for file, _ in files]
    return image_signals(
        path.resolve().name,
        names,
        decode_images(names, (file for file, _ in files), size),
        [label for _, label in files],
        classes,
    )
