"""The layout of the released DWSNets datasets: one `.pth` state dict per member, and JSON splits.

`{"train": {"path": [...], "label": [...]}, "val": ..., "test": ...}`; tensors `seq.{i}.weight`,
`seq.{i}.bias`; files `NAME_{training|testing}_{label}_{id}/checkpoints/model_final.pth`, where ids
start again in the testing half. Paths may be absolute paths of another machine. Lists other than
`path` and `label` are columns of the catalog.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
import torch

from pipeline.archive.files import json_text
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.exchange.layers import layout_for
from pipeline.exchange.outgoing import exported_blocks, file_name
from pipeline.exchange.pickled import load, load_file, save
from pipeline.exchange.rows import SPLIT_NAMES, table_of
from pipeline.exchange.source import Loaded, Source, common_layout, load_states, read_json
from pipeline.progress import Advance

SPLITS = {"train": "train", "validation": "val", "test": "test"}
FOLDER = re.compile(r"(?P<half>.*(training|testing))_(?P<label>\d+)_(?P<id>[^_]+)")
FILE = "model_final.pth"
OURS = "dwszoo"
"""The data set name in exported files."""
MAX_BESIDE = 16
"""Maximum length of a list next to the tensors of a file that becomes columns."""


def write(zoo: Zoo, out: Path, advance: Advance):
    """Write `splits.json` and one folder per member; paths are relative to `out`."""
    layout = layout_for(zoo.space, lambda i, _: f"seq.{i}", ".weight", ".bias")
    splits: dict[str, dict[str, list]] = {theirs: {"path": []} for theirs in SPLITS.values()}
    for split, block, rows in exported_blocks(zoo):
        half = "testing" if split == "test" else "training"
        tensors = {name: torch.from_numpy(array) for name, array in layout.theirs(block).items()}
        for position, row in enumerate(rows.to_pylist()):
            label = "" if row.get("label") is None else f"{row['label']}_"
            path = PurePosixPath(
                f"{OURS}_{half}_{label}{file_name(row['key'])}", "checkpoints", FILE
            )
            (out / path).parent.mkdir(parents=True)
            save({name: tensor[position] for name, tensor in tensors.items()}, out / path)
            content = splits[SPLITS[split]]
            content["path"].append(str(path))
            for name, value in row.items():
                if name != "split":
                    content.setdefault(name, []).append(value)
        advance(len(rows))
    (out / "splits.json").write_text(json_text(splits))


def read(path: Path) -> Source:
    """Open the folder, or the JSON file with the splits.

    Without such a file, half, label and id come from the names of folders.
    """
    splits, left_out = (path, []) if path.is_file() else find_splits(path)
    root = path.parent if path.is_file() else path
    if splits is None:
        rows = list(rows_of_folders(root))
    else:
        stated, others = read_splits(splits)
        rows, left_out = list(rows_of_splits(root, splits, stated)), [*left_out, *others]
    files = [row.pop("file") for row in rows]
    layout = common_layout(root, map(load, files))

    def read_rows(index: np.ndarray) -> Loaded:
        return load_states(layout, [load(files[i]) for i in index])

    found = [file for file in dict.fromkeys(files) if file is not None]
    read_files = found if splits is None else [splits, *found]
    return Source(table_of(rows), layout, read_rows, read_files, left_out=left_out)


def find_splits(folder: Path) -> tuple[Path | None, list[str]]:
    """The JSON file in `folder` that has splits, or None; and the problems of unreadable files.

    Raises InputError if several files have splits, or if none has and some cannot be read.
    """
    found, problems = [], []
    for file in sorted(folder.glob("*.json")):
        try:
            if isinstance(content := read_json(file), dict) and "train" in content:
                found.append(file)
        except InputError as error:
            problems.append(str(error))
    if problems and not found:
        raise InputError(f"{problems[0]}: repair it, or delete it to use the names of folders")
    if len(found) > 1:
        raise InputError(
            f"{folder} has several files with splits ({', '.join(file.name for file in found)}): "
            "name one of them"
        )
    return found[0] if found else None, problems


def read_splits(file: Path) -> tuple[dict[str, Any], list[str]]:
    """The contents at the names of splits, train first, and what was left out."""
    content = read_json(file)
    if not isinstance(content, dict) or not set(content) & set(SPLIT_NAMES):
        raise InputError(f"{file} must map train, val and test to paths, found {str(content)[:60]}")
    others = [
        f"{file} has {name!r}, which is not called {', '.join(SPLIT_NAMES)}"
        for name in content
        if name not in SPLIT_NAMES
    ]
    return {name: content[name] for name in SPLIT_NAMES if name in content}, others


def rows_of_splits(root: Path, splits: Path, stated: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for theirs, columns in stated.items():
        columns = {"path": columns} if isinstance(columns, list) else columns
        check_columns(f"{splits} at {theirs!r}", columns)
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            path = row.pop("path")
            file = locate(root, path) if isinstance(path, str) else None
            # With the number of its signal, a row needs nothing from the file name.
            known = {} if "source_index" in row else row_of_path(file or PurePosixPath(str(path)))
            if file and not {"label", "source_index"} & {*known, *row}:
                known |= beside_tensors(file)
            where = str(file.relative_to(root)) if file else str(path)
            yield known | row | {"split": theirs, "source": where, "file": file}


def check_columns(what: str, columns: Any):
    if not isinstance(columns, dict) or not all(
        isinstance(values, list) for values in columns.values()
    ):
        raise InputError(f"{what} must be lists, one of them 'path'")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1 or (columns and "path" not in columns):
        raise InputError(
            f"{what} must have lists of one length, one of them 'path', found lengths {lengths}"
        )


def locate(root: Path, path: str) -> Path | None:
    """The file below `root` that `path` means: its longest suffix that exists.

    Nothing above `root` is ever read.
    """
    parts = [
        part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", ".")
    ]
    for start in range(len(parts)):
        file = root.joinpath(*parts[start:])
        if (
            ".." not in parts[start:]
            and os.path.isfile(file)
            and file.resolve().is_relative_to(root.resolve())
        ):
            return file
    return None


def beside_tensors(file: Path) -> dict[str, Any]:
    """Numbers in a file next to its tensors: the `label` of an image, the `coef` of a sine."""
    try:
        content = load_file(file)
    except InputError:
        return {}
    content = content if isinstance(content, dict) else {}
    lists = {
        f"{name}.{i}": entry
        for name, value in content.items()
        if isinstance(value, list) and len(value) <= MAX_BESIDE
        for i, entry in enumerate(value)
    }
    return {
        name: value for name, value in (content | lists).items() if isinstance(value, int | float)
    }


def rows_of_folders(root: Path) -> Iterable[dict[str, Any]]:
    files = sorted(file for file in root.glob(f"**/{FILE}") if file.is_file())
    if not files:
        raise InputError(
            f"{root} must have a JSON file with splits or folders with checkpoints/{FILE}, found "
            "neither"
        )
    for file in files:
        row = row_of_path(file)
        split = "test" if row.get("half") == "testing" else None
        yield row | {"split": split, "source": str(file.relative_to(root)), "file": file}


def row_of_path(file: PurePath) -> dict[str, Any]:
    """Parse the name of a member's folder.

    `group` includes the half, because ids start again in the testing half.
    """
    match = FOLDER.fullmatch(file.parent.parent.name)
    if match is None:
        return {}
    half = "testing" if match["half"].endswith("testing") else "training"
    group = match["id"]
    if match["half"].startswith(OURS):  # our keys end in the view
        group = group.rpartition("-")[0] or group
    return {"half": half, "label": int(match["label"]), "group": f"{half} {group}"}
