"""Images in Parquet files, of the Hugging Face hub and others."""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import SignalsConfig
from pipeline.errors import InputError
from pipeline.signals.columns import class_names, find_image_column, find_label_column, images_in
from pipeline.signals.facts import check_names, fact
from pipeline.signals.files import find_files, only_suffixes, without_copies
from pipeline.signals.images import decode_images, image_signals
from pipeline.signals.labels import NO_LABEL, class_labels
from pipeline.signals.signals import Signals
from pipeline.signals.splits import SPLITS, require_train, split_in, split_of_path
from pipeline.signals.taken import Taken, name_below


class Part(NamedTuple):
    """The data used from a file."""

    file: Path
    split: str | None
    columns: tuple[str, str | None]
    """Names of the columns of images and classes."""
    images: pa.ChunkedArray
    labels: pa.ChunkedArray
    names: tuple[str, ...]
    """Names of the classes, if the metadata has them."""
    facts: tuple[pa.ChunkedArray, ...]
    """The columns in config.fact_columns."""


def load_parquet(path: Path, config: SignalsConfig) -> Signals:
    """Every row of a Parquet file, or of all files below a folder, ordered by split and file.

    The split is in the name of a file or of the nearest folder above it:
    `train-00000-of-00001.parquet`, `CONFIG/train/0000.parquet`, `mnist_test.parquet`. Splits are
    drawn if no name has one. A file that cannot be read counts as one failed row. Raises InputError
    for files of several configurations, or other splits but no train split.
    """
    check_names("signals.fact_columns", config.fact_columns)
    root = path if path.is_dir() else path.parent
    taken = Taken(root)
    files = find_tables(path, taken) if path.is_dir() else [(path, None)]
    parts, broken = read_parts(path, files, config, taken)
    if not parts:
        raise InputError(f"{path} must hold *.parquet files with rows, found none{taken}")
    parts, labels, names = with_classes(parts, taken)
    own = [part.split for part in parts]
    require_train(path, own, "set signals.path to a file, and splits are drawn from it")
    splits = [part.split for part in parts for _ in range(len(part.images))]
    image, label = parts[0].columns
    classes = f"classes in {label!r}" if label else "no column of classes (signals.label_column)"
    taken.take(f"rows with images in {image!r} and {classes}", splits, names)
    row_names = [
        name_below(root, part.file, row) for part in parts for row in range(len(part.images))
    ]
    row_names += [name_below(root, file) for file in broken]
    images = chain((image for part in parts for image in images_in(part.images)), broken.values())
    signals = image_signals(
        path.resolve().name if path.is_dir() else path.stem,
        row_names,
        decode_images(row_names, images, config.size),
        [*labels, *(NO_LABEL for _ in broken)],
        names,
        splits + [split for file, split in files if file in broken],
        str(taken),
    )
    unknown = pa.nulls(len(broken))
    facts = {
        column: fact(
            f"the column {column!r} (signals.fact_columns)",
            [*(part.facts[place] for part in parts), unknown],
        )
        for place, column in enumerate(config.fact_columns)
    }
    return replace(signals, facts=facts)


def find_tables(path: Path, taken: Taken) -> list[tuple[Path, str | None]]:
    """The Parquet files below a folder with their splits, train first.

    If some files have a split, those without are left out.
    """
    files = without_copies(only_suffixes(find_files(path, taken), (".parquet",), taken), taken)
    inner = {file: file.relative_to(path).parts for file in files}
    found = {file: split_of_path((*parts[:-1], file.stem)) for file, parts in inner.items()}
    splits = {file: split for file, (split, _) in found.items()}
    if any(splits.values()):
        for file in [file for file in files if splits[file] is None]:
            taken.leave_out("of no split, beside files of splits", file)
            del splits[file]
    configurations = {
        "/".join(part for part in inner[file][:-1] if not split_in(part)[0]) or "."
        for file in splits
    }
    if len(configurations) > 1:
        raise InputError(
            f"{path} must hold one configuration of a data set, found "
            f"{', '.join(sorted(configurations))}: set signals.path to one of them"
        )
    learned = sorted({name for split, name in found.values() if split == "train"})
    if len(learned) > 1:
        first, second = (f"{name} train".lstrip() for name in learned[:2])
        raise InputError(
            f"{path} must hold one train split, found {first!r} and {second!r}: move the files of "
            "one elsewhere"
        )
    return sorted(splits.items(), key=lambda item: (SPLITS.index(item[1] or "train"), item[0]))


def read_parts(
    path: Path, files: Sequence[tuple[Path, str | None]], config: SignalsConfig, taken: Taken
) -> tuple[list[Part], dict[Path, str]]:
    """The files that can be read and have rows, and why others cannot be read.

    Raises InputError if the latter are more than `config.max_unreadable` of the files, as their
    numbers of rows are unknown.
    """
    parts, broken = [], {}
    for file, split in files:
        try:
            part = read_part(file, split, config, taken)
        except InputError as problem:
            if len(files) == 1:
                raise
            broken[file] = str(problem).removeprefix(f"{file} ")
        else:
            parts += [part] if part else []
    if len(broken) > config.max_unreadable * len(files):
        file, why = next(iter(broken.items()))
        raise InputError(
            f"at most {config.max_unreadable:.0%} of the {len(files)} files of {path} may be "
            f"unreadable, found {len(broken)}; the first: {file} {why}"
        )
    return parts, broken


def read_part(file: Path, split: str | None, config: SignalsConfig, taken: Taken) -> Part | None:
    """The columns of a file; None if it has no rows.

    Raises InputError if it cannot be read or lacks a column.
    """
    if not os.path.isfile(file):  # opening a pipe would block
        raise InputError(f"{file} cannot be read as Parquet (not a file): replace it")
    try:
        with open(file, "rb") as raw, pq.ParquetFile(raw) as content:
            schema = content.schema_arrow
            image = find_image_column(file, schema, config.image_column)
            label = find_label_column(file, schema, config.label_column)
            columns = [name for name in (image, label, *config.fact_columns) if name is not None]
            if missing := [name for name in columns if name not in schema.names]:
                raise InputError(
                    f"{file} must have the column {missing[0]!r} that signals.fact_columns names, "
                    f"found {schema.names}"
                )
            if twice := [name for name in columns if schema.names.count(name) > 1]:
                raise InputError(f"{file} must have one column {twice[0]!r}, found several")
            table = content.read(columns=[*dict.fromkeys(columns)], use_threads=False)
            table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file} cannot be read as Parquet ({reason}): replace it") from error
    if not len(table):
        taken.leave_out("no rows", file)
        return None
    labels = pa.chunked_array([pa.nulls(len(table))]) if label is None else table[label]
    names = () if label is None else class_names(schema, label)
    facts = tuple(table[name] for name in config.fact_columns)
    return Part(file, split, (image, label), table[image], labels, names, facts)


def with_classes(
    parts: Sequence[Part], taken: Taken
) -> tuple[list[Part], np.ndarray, tuple[str, ...]]:
    """The files, the class of each row, and the names of classes.

    If some files have classes, those without are left out. Raises InputError for labels that cannot
    be classes.
    """
    names = {part.names: part for part in parts if part.names}
    if len(names) > 1:
        first, second, *_ = names.values()
        raise InputError(
            f"{first.file} and {second.file} must have the same classes in the same order, found "
            "others in the metadata: write both with the same classes"
        )
    column = next((part.columns[1] for part in parts if part.columns[1]), None)
    labels, class_names = class_labels(
        f"the labels in column {column!r} (signals.label_column)",
        [part.labels for part in parts],
        next(iter(names), ()),
    )
    ends = np.cumsum([len(part.images) for part in parts])[:-1]
    kept = []
    for part, those in zip(parts, np.split(labels, ends), strict=True):
        if class_names and (those == NO_LABEL).all():
            taken.leave_out("no row has a class", part.file)
        else:
            kept.append((part, those))
    return (
        [part for part, _ in kept],
        np.concatenate([those for _, those in kept]),
        class_names,
    )
