"""Images as plain arrays: the IDX files that MNIST came in, and NPZ files."""

import gzip
import zipfile
import zlib
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.signals.images import image_signals
from pipeline.signals.signals import Signals

IDX_PARTS = (("train", False), ("t10k", True))
NPZ_PARTS = (("images", "labels", False), ("x_train", "y_train", False), ("x_test", "y_test", True))


def load_idx(path: Path, size: int | None) -> Signals:
    """`train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and, as the test split, `t10k-...`; gzipped or not."""
    parts = []
    for prefix, held_out in IDX_PARTS:
        files = [next(path.glob(f"{prefix}-{kind}*ubyte*"), None) for kind in ("images", "labels")]
        if None not in files:
            parts.append((files[0].name, *(read_idx(file) for file in files), held_out))
    if not parts:
        raise InputError(
            f"{path} must hold train-images-idx3-ubyte and train-labels-idx1-ubyte, gzipped or not; found neither"
        )
    return array_signals(path.resolve().name, parts, size)


def read_idx(file: Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file. Raises InputError where header and content do not agree."""
    with open(file, "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(file) if zipped else open(file, "rb") as content:
            magic = content.read(4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08":
                raise InputError(
                    f"{file} must be an IDX file of unsigned bytes, found magic number {magic.hex()}"
                )
            shape = tuple(np.frombuffer(content.read(4 * magic[3]), ">u4").tolist())
            count = int(np.prod(shape, dtype=object))
            data = content.read(count + 1) if count < 2**40 else b""
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} cannot be read ({error}): replace it") from error
    if len(data) != count:
        found = f"more than {count}" if len(data) > count else len(data)
        raise InputError(
            f"{file} must hold {count} bytes as its header {shape} says, found {found}: replace it"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def load_npz(path: Path, size: int | None) -> Signals:
    """Arrays `images` and `labels`, or `x_train`, `y_train` and, as the test split, `x_test`, `y_test`. Never unpickled."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            parts = [
                (x, arrays[x], arrays[y], held_out)
                for x, y, held_out in NPZ_PARTS
                if x in arrays and y in arrays
            ]
            found = list(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as NPZ ({error}): replace it") from error
    if not parts:
        raise InputError(
            f"{path} must hold arrays 'images' and 'labels' or 'x_train' and 'y_train', found {found}"
        )
    return array_signals(path.stem, parts, size)


def array_signals(
    name: str, parts: list[tuple[str, np.ndarray, np.ndarray, bool]], size: int | None
) -> Signals:
    """(file or array, images, labels, whether they are the source's test split) as signals.

    Raises InputError for other shapes.
    """
    names, images, labels, held_out = [], [], [], []
    for part_name, part, part_labels, is_test in parts:
        if (
            part.dtype != np.uint8
            or part.ndim not in (3, 4)
            or part_labels.shape != part.shape[:1]
            or not len(part)
        ):
            raise InputError(
                f"{name} must hold uint8 images (count, height, width) or (count, height, width, channels), "
                f"each with a label, found {part.dtype} {part.shape} with labels {part_labels.shape}"
            )
        if size is not None and part.shape[1:3] != (size, size):
            raise InputError(
                f"signals.size must be null or {part.shape[1]} for {name}, got {size}: arrays are not resized"
            )
        names += [f"{part_name}:{row}" for row in range(len(part))]
        images += list(part if part.ndim == 4 else part[..., None])
        labels.append(part_labels.astype(np.int64))
        held_out += [is_test] * len(part)
    labels = np.concatenate(labels)
    return image_signals(
        name,
        names,
        images,
        labels,
        [str(i) for i in range(labels.max() + 1)],
        held_out if any(held_out) else None,
    )
