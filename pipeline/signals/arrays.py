"""Images as plain arrays: IDX, the format of MNIST, and NPZ files."""

import gzip
import os
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.config import SignalsConfig
from pipeline.errors import InputError
from pipeline.signals.files import find_files
from pipeline.signals.images import image_signals
from pipeline.signals.labels import array_labels, class_labels
from pipeline.signals.signals import Signals
from pipeline.signals.splits import SPLITS, require_train, split_in, words_in
from pipeline.signals.taken import Taken, name_below

ROLES = {
    "images": ("images", "image", "x", "data"),
    "labels": ("labels", "label", "y", "targets", "target"),
}
"""Words in the name of an array or file that say what it holds."""
IDX = re.compile(r".*(images|labels).idx\d.ubyte(\.gz)?", re.IGNORECASE)


class Part(NamedTuple):
    """The images of a split, and their labels if there are any: names of arrays or files."""

    split: str | None
    images: str
    labels: str | None


def load_idx(path: Path, config: SignalsConfig) -> Signals:
    """`train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...` (test), gzipped or not."""
    taken, files, copies = Taken(path), dict[str, Path](), list[tuple[Path, Path]]()
    for file in find_files(path, taken):
        name = re.sub(r"[._]", "-", file.name.lower().removesuffix(".gz")).replace("t10k", "test")
        if not IDX.fullmatch(file.name):
            taken.leave_out("no IDX file of images or labels", file)
        elif files.setdefault(name, file) != file:
            copies.append((files[name], file))
            taken.leave_out("a copy of a file that is taken", file)
    parts = find_parts(files, taken)
    if not parts:
        raise InputError(
            f"{path} must hold train-images-idx3-ubyte, gzipped or not, and labels, found "
            f"none{taken}"
        )
    for file, copy in copies:  # files of Fashion-MNIST have the same names as MNIST's
        if not np.array_equal(read_idx(file), read_idx(copy)):
            raise InputError(
                f"{path} must hold one file called {file.name.removesuffix('.gz')}, found "
                f"{name_below(path, file)} and {name_below(path, copy)}, which differ: set "
                "signals.path to the folder of one of them"
            )
    arrays = {name: read_idx(files[name]) for part in parts for name in part[1:] if name}
    return array_signals(path.resolve().name, parts, arrays, files, config, taken)


def read_idx(file: Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file. Raises InputError if it is not a valid one."""
    if not os.path.isfile(file):  # opening a pipe would block
        raise InputError(f"{file} must be a file: replace it")
    try:
        with open(file, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(file) if zipped else open(file, "rb") as content:
            magic = content.read(4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08":
                raise InputError(
                    f"{file} must be an IDX file of unsigned bytes, found magic number "
                    f"{magic.hex()}"
                )
            sizes = content.read(4 * magic[3])
            if len(sizes) < 4 * magic[3]:
                raise EOFError("its header is cut short")
            shape = tuple(np.frombuffer(sizes, ">u4").tolist())
            count = int(np.prod(shape, dtype=object))
            data = content.read(count + 1) if count < 2**40 else b""
    except (OSError, EOFError, MemoryError, zlib.error) as error:
        raise InputError(f"{file} cannot be read ({error or 'too large'}): replace it") from error
    if len(data) != count:
        found = f"more than {count}" if len(data) > count else len(data)
        raise InputError(
            f"{file} must hold {count} bytes as its header {shape} says, found {found}: replace it"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def load_npz(path: Path, config: SignalsConfig) -> Signals:
    """Arrays `images` and `labels`, or `x_train`, `y_train`, `x_test`, `y_test`, or similar names.

    Nothing is unpickled.
    """
    taken = Taken(path)
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as content:
            places = {name: path / name.lstrip("/") for name in content}
            arrays = {name: np.asanyarray(content[name]) for name in content if role_in(name)}
    except Exception as error:  # NumPy and zipfile raise undocumented errors on unexpected bytes
        raise InputError(f"{path} cannot be read as NPZ ({error}): replace it") from error
    parts = find_parts(places, taken)
    if not parts:
        raise InputError(
            f"{path} must hold arrays 'images' and 'labels' or 'x_train' and 'y_train', found "
            f"{[*places]}"
        )
    return array_signals(path.stem, parts, arrays, places, config, taken)


def role_in(name: str) -> str | None:
    """The role in the name of an array or file: 'images', 'labels', or None for neither or both."""
    said = words_in(name)
    roles = [role for role, words in ROLES.items() if said & {*words}]
    return roles[0] if len(roles) == 1 else None


def find_parts(places: Mapping[str, Path], taken: Taken) -> list[Part]:
    """Images and labels of each split, by the words in the names of arrays or files, train first.

    If some images have labels, images without are left out. Raises InputError if two have the same
    role, or there are other splits but no train split.
    """
    named: dict[str | None, dict[str, str]] = defaultdict(dict)
    for name, place in places.items():
        split, role = split_in(name)[0], role_in(name)
        if role is None:
            taken.leave_out("its name says neither images nor labels", place)
        elif (other := named[split].setdefault(role, name)) != name:
            raise InputError(
                f"{taken.root} must hold one set of {role} for each split, found {other} and "
                f"{name}: remove one of them"
            )
    complete = (
        {"images", "labels"} if any(len(roles) == 2 for roles in named.values()) else {"images"}
    )
    for split, roles in [*named.items()]:
        if not complete <= {*roles}:
            del named[split]
            for role, name in roles.items():
                taken.leave_out(f"{role} alone", places[name])
    require_train(taken.root, named, "rename it to train, and splits are drawn from it")
    return [
        Part(split, named[split]["images"], named[split].get("labels"))
        for split in (None, *SPLITS)
        if split in named
    ]


def array_signals(
    name: str,
    parts: Sequence[Part],
    arrays: Mapping[str, np.ndarray],
    places: Mapping[str, Path],
    config: SignalsConfig,
    taken: Taken,
) -> Signals:
    """Raises InputError for images of other shapes or types, or if their labels do not match."""
    names, images, labels, splits = [], [], [], []
    for part in parts:
        pixels, where = arrays[part.images], name_below(taken.root, places[part.images])
        is_image = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[-1] in (1, 3))
        if pixels.dtype != np.uint8 or not is_image or not len(pixels):
            raise InputError(
                f"{where} of {name} must hold uint8 images (count, height, width) or (count, "
                f"height, width, 1 or 3), found {pixels.dtype} {pixels.shape}"
            )
        if config.size is not None and pixels.shape[1:3] != (config.size, config.size):
            raise InputError(
                f"signals.size must be null or {pixels.shape[1]} for {name}, got {config.size}: "
                "arrays are not resized"
            )
        theirs = pa.nulls(len(pixels))
        if part.labels:
            theirs = array_labels(f"{part.labels} of {name}", arrays[part.labels], len(pixels))
        names += [f"{where}:{row}" for row in range(len(pixels))]
        images += list(pixels if pixels.ndim == 4 else pixels[..., None])
        labels.append(theirs)
        splits += [part.split] * len(pixels)
    positions, class_names = class_labels(f"the labels of {name}", labels)
    taken.take("images", splits, class_names)
    return image_signals(name, names, images, positions, class_names, splits, str(taken))
