"""A folder of images, with one subfolder per class or without classes."""

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pipeline.config import SignalsConfig
from pipeline.errors import InputError
from pipeline.signals.decoding import FORMATS
from pipeline.signals.files import find_files, only_suffixes, without_copies
from pipeline.signals.images import decode_images, image_signals
from pipeline.signals.labels import NO_LABEL
from pipeline.signals.signals import Signals
from pipeline.signals.splits import SPLIT_OF, SPLITS, require_train, split_folders, split_in
from pipeline.signals.taken import Taken, as_text, name_below


class Picture(NamedTuple):
    file: Path
    folders: tuple[str, ...]
    """Folders that lead to the file, from the level of classes on: the first is its class."""
    split: str | None = None

    @property
    def class_name(self) -> str | None:
        return class_of(self.folders[0]) if self.folders else None


Splits = Mapping[tuple[str, ...], Mapping[str, str]]
"""The split of each folder of a set of splits, by the folders that lead to the set."""


@cache
def class_of(folder: str) -> str:
    """The class name of a folder, in NFC, as systems write names in different Unicode forms."""
    return unicodedata.normalize("NFC", as_text(folder))


def load_folder(path: Path, config: SignalsConfig) -> Signals:
    """Every image below `path`, ordered by split, class and file.

    The layout is `CLASS/*`, `train/CLASS/*` and `test/CLASS/*`, `CLASS/train/*` and `CLASS/test/*`,
    or images without classes. A folder with a single subfolder stands for that, and folders inside
    a class belong to it. Raises InputError if there are no images, several sets of splits, or other
    splits but no train split.
    """
    taken = Taken(path)
    files = only_suffixes(find_files(path, taken), image_suffixes(), taken)
    pictures = [Picture(file, file.relative_to(path).parts[:-1]) for file in files]
    pictures = with_classes(with_splits(path, pictures, taken), taken)
    kept = {*without_copies([picture.file for picture in pictures], taken)}
    pictures = [picture for picture in pictures if picture.file in kept]
    if not pictures:
        raise InputError(
            f"{path} must hold images, directly or in one subfolder per class, found none{taken}"
        )
    classes = [picture.class_name for picture in pictures]
    class_names = sorted({name for name in classes if name is not None})
    position: dict[str | None, int] = {name: place for place, name in enumerate(class_names)}
    position[None] = NO_LABEL
    pictures.sort(key=lambda it: (SPLITS.index(it.split or "train"), it.class_name or "", it.file))
    splits = [picture.split for picture in pictures]
    taken.take("images", splits, class_names)
    names = [name_below(path, picture.file) for picture in pictures]
    return image_signals(
        path.resolve().name,
        names,
        decode_images(names, (picture.file for picture in pictures), config.size),
        [position[picture.class_name] for picture in pictures],
        class_names,
        splits,
        str(taken),
    )


def image_suffixes() -> set[str]:
    """Suffixes of the formats that are decoded; Pillow's name of a stereo camera's JPEG is MPO."""
    from PIL import Image

    suffixes = Image.registered_extensions()
    return {suffix for suffix, name in suffixes.items() if name in (*FORMATS, "MPO")}


def common_depth(folders: Sequence[tuple[str, ...]]) -> int:
    """The number of nested single folders above the first files or branches."""
    depth = 0
    while len({names[depth] for names in folders if len(names) > depth}) == 1:
        depth += 1
    return depth


def with_splits(path: Path, pictures: list[Picture], taken: Taken) -> list[Picture]:
    """The pictures with their splits, if any, and their folders from the level of classes on."""
    above = common_depth([picture.folders for picture in pictures])
    depth, splits = find_splits(path, pictures, above)
    if not splits:
        require_train_folder(path, pictures, above)
        return [picture._replace(folders=picture.folders[above:]) for picture in pictures]
    whole = with_train_classes(pictures, depth, splits)
    if len(whole) > 1:
        first, second, *_ = ("/".join(folder) for folder in whole)
        raise InputError(
            f"{path} must hold one set of splits, found them in {first} and in {second}: set "
            "signals.path to one of them"
        )
    splits = {folder: splits[folder] for folder in whole} or splits
    of_each_class = depth > above and not whole
    placed = []
    for file, folders, _ in pictures:
        named, (inner, *_) = splits.get(folders[:depth], {}), (*folders[depth:], None)
        if inner in named:
            leading = folders[above:depth] if of_each_class else ()
            placed.append(Picture(file, leading + folders[depth + 1 :], named[inner]))
        elif of_each_class and not named:
            placed.append(Picture(file, folders[above:], "train"))
        else:
            taken.leave_out("beside folders of splits", file)
    if of_each_class:
        return placed
    # `seg_train` and `seg_test` may again contain `seg_train` and `seg_test`.
    within = [tuple(split_in(folder)[1] for folder in picture.folders) for picture in placed]
    deeper = common_depth(within)
    return [picture._replace(folders=picture.folders[deeper:]) for picture in placed]


def find_splits(path: Path, pictures: Sequence[Picture], above: int) -> tuple[int, Splits]:
    """The depth of the topmost splits, and these splits."""
    for depth in range(above, max((len(picture.folders) for picture in pictures), default=0)):
        inside: dict[tuple, set[str]] = defaultdict(set)
        for picture in pictures:
            inside[picture.folders[:depth]].update(picture.folders[depth : depth + 1])
        found = {folder: split_folders(path, names) for folder, names in inside.items()}
        if any(found.values()):
            return depth, {folder: named for folder, named in found.items() if named}
    return above, {}


def with_train_classes(
    pictures: Sequence[Picture], depth: int, splits: Splits
) -> list[tuple[str, ...]]:
    """The sets of splits whose train split has classes: they are data sets, not classes of one."""
    classes: dict[tuple, set[str]] = defaultdict(set)
    for picture in pictures:
        folder, inner = picture.folders[:depth], picture.folders[depth:]
        if inner and splits.get(folder, {}).get(inner[0]) == "train":
            classes[folder].update(inner[1:2])
    return [folder for folder, names in classes.items() if len(names) > 1]


def require_train_folder(path: Path, pictures: Sequence[Picture], above: int):
    """Raises InputError if all pictures are in folders named like splits, but none named train."""
    inside = {picture.folders[above:][:1] for picture in pictures}
    deepest = max((picture.folders for picture in pictures), key=len, default=())
    leading: list[tuple[str, ...]] = [(name,) for name in deepest[:above]]
    if all(map(is_split, inside)):
        leading += inside
    named = [folders[0] for folders in leading if is_split(folders)]
    splits = [SPLIT_OF[name.casefold()] for name in named]
    require_train(path, splits, "set signals.path to one of them, and splits are drawn from it")


def is_split(folders: tuple[str, ...]) -> bool:
    return any(folder.casefold() in SPLIT_OF for folder in folders)


def with_classes(pictures: list[Picture], taken: Taken) -> list[Picture]:
    """The pictures in folders of classes; all pictures, without class, if there are fewer than two.

    `test/unknown` next to `train/CLASS` is not a class: it is the only folder of its split, and the
    train split has several, all with other names.
    """
    names = defaultdict(set)
    for picture in pictures:
        names[picture.split].update({picture.class_name} - {None})
    if len(set().union(*names.values())) < 2:
        return [picture._replace(folders=()) for picture in pictures]
    learned = names["train"]
    unnamed = {
        split
        for split, those in names.items()
        if len(learned) > 1 and len(those) == 1 and not those <= learned
    }
    kept = []
    for picture in pictures:
        if picture.folders and picture.split not in unnamed:
            kept.append(picture)
        else:
            taken.leave_out("of no class, beside folders of classes", picture.file)
    return kept
