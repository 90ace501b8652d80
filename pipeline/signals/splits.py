"""Splits in the names of files and folders, by the same words as the Hugging Face hub."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.errors import InputError

SPLITS = ("train", "validation", "test")
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLIT_OF = {
    word + ending: split
    for split, words in WORDS.items()
    for word in words
    for ending in ("", "set", "data")
}
WORD = re.compile(r"[^\W\d_]+")
INSIDE_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")


def split_in(name: str) -> tuple[str | None, str]:
    """The split that a word of a name means, or None for no or several such words; and the rest."""
    name = apart(name)
    found = [word for word in WORD.finditer(name) if word[0] in SPLIT_OF]
    if len(found) != 1:
        return None, name
    start, end = found[0].span()
    return SPLIT_OF[found[0][0]], f"{name[:start]}*{name[end:]}"


def words_in(name: str) -> set[str]:
    return {*WORD.findall(apart(name))}


def apart(name: str) -> str:
    """A name in lower case, with the words of `camelCase` separated."""
    return INSIDE_CAMEL_CASE.sub("_", name).casefold()


def split_of_path(parts: Sequence[str]) -> tuple[str | None, str]:
    """The split in the name of a file or the nearest folder with one, and the words before it."""
    said = (split_in(part) for part in reversed(parts))
    split, rest = next(((split, rest) for split, rest in said if split), (None, ""))
    return split, " ".join(WORD.findall(rest.partition("*")[0]))


def split_folders(root: Path, folders: Iterable[str]) -> dict[str, str]:
    """The splits of folders whose names differ only in the word for the split, one of them train.

    Empty if there are none: `train` next to `car` is a class, like `train_station` next to
    `test_tube`. Raises InputError if there are several such sets.
    """
    alike: dict[str, dict[str, str]] = defaultdict(dict)
    for folder in sorted(folders):
        split, rest = split_in(folder)
        if split:
            alike[rest][folder] = split
    pairs = [
        named
        for named in alike.values()
        if "train" in named.values() and len(set(named.values())) > 1
    ]
    if len(pairs) > 1:
        raise InputError(
            f"{root} must hold one set of splits, found {', '.join(pairs[0])} and "
            f"{', '.join(pairs[1])}: move one of them elsewhere"
        )
    return pairs[0] if pairs else {}


def require_train(where: Path, splits: Iterable[str | None], advice: str):
    """Raises InputError if there are other splits but no train split; `advice` says what to do."""
    others = sorted({split for split in splits if split} - {"train"})
    if others and not {"train", None} & set(splits):
        raise InputError(
            f"{where} must hold a train split, found only {', '.join(others)}: {advice}"
        )
