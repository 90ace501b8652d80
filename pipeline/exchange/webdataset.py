"""WebDataset with one member per sample, in `SPLIT-NNNNNN.tar`.

`KEY.safetensors` is the state dict, `KEY.json` (or `KEY.jsonl`) the row of a member.
"""

import json
import tarfile
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from webdataset import TarWriter

from pipeline.archive.files import json_text
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.exchange.layers import layout_for, natural
from pipeline.exchange.outgoing import exported_blocks, file_name
from pipeline.exchange.rows import SPLIT_NAMES, table_of
from pipeline.exchange.source import (
    MAX_TEXT,
    Found,
    Loaded,
    Source,
    common_layout,
    load_states,
    weights_of,
)
from pipeline.progress import Advance

MEMBERS = 10_000
"""Members per tar."""
ARCHIVES = (".tar", ".tar.gz", ".tgz")
"""Suffixes that are looked at; compressed ones are reported as left out."""
KINDS = {"safetensors": "safetensors", "json": "json", "jsonl": "json"}
"""What an entry holds, by its suffix."""
Place = tuple[Path, int, int]
"""File, offset and length of the bytes of an entry."""


def write(zoo: Zoo, out: Path, advance: Advance, row_kind: str = "json"):
    layout = layout_for(zoo.space, lambda i, _: f"layers.{i}", ".weight", ".bias")
    written: dict[str, int] = {}
    writer: Any = None
    try:
        for split, block, table in exported_blocks(zoo):
            tensors = {
                name: torch.from_numpy(array) for name, array in layout.theirs(block).items()
            }
            for position, row in enumerate(table.to_pylist()):
                number = written[split] = written.get(split, -1) + 1
                if number % MEMBERS == 0:
                    if writer is not None:
                        writer.close()
                    writer = TarWriter(
                        str(out / f"{split}-{number // MEMBERS:06d}.tar"), mtime=0, encoder=False
                    )
                state = {name: tensor[position].contiguous() for name, tensor in tensors.items()}
                sample = {
                    "safetensors": safetensors.torch.save(state),
                    row_kind: json_text(row).encode(),
                }
                writer.write({"__key__": file_name(row["key"])} | sample)
            advance(len(table))
    finally:
        if writer is not None:
            writer.close()


def read(path: Path) -> Source:
    """Open the folder of the tars. A damaged tar is read up to the damage."""
    inside = sorted(path.iterdir()) if path.is_dir() else []
    files = [file for file in inside if file.name.endswith(ARCHIVES)]
    samples, left_out = [], []
    for file in files:
        found, left = samples_of(file)
        samples += found
        left_out += left
    if not samples:
        seen = "; ".join([f"{len(files)} files and no sample", *left_out[:3]])
        raise InputError(
            f"{path} must have .tar files with samples of .safetensors and .json, found {seen}"
        )
    places = [sample.place for sample in samples]
    problems = {i: sample.problem for i, sample in enumerate(samples) if sample.problem}
    layout = common_layout(path, map(load, places))

    def read_rows(index: np.ndarray) -> Loaded:
        return load_states(layout, [load(places[i]) for i in index])

    rows, read_files = table_of([sample.row for sample in samples]), filter(Path.is_file, files)
    return Source(rows, layout, read_rows, [*read_files], problems, left_out)


def samples_of(file: Path) -> tuple[list[Found], list[str]]:
    """The samples, and what was left out. The name of an entry is never used as a path.

    A key may contain dots: it ends at the last dot, not at the first.
    """
    entries, problems = entries_of(file)
    split, samples = SPLIT_NAMES.get(file.name.split("-")[0]), []
    have_rows = any(kinds["json"] for kinds in entries.values())
    for key, kinds in entries.items():
        tensors, texts = kinds["safetensors"], kinds["json"]
        problem = None
        if len(tensors) != len(texts) and have_rows and tensors:  # rows cannot be assigned
            texts, problem = [], f"must have one entry {key}.json per {key}.safetensors"
        for place, text in zip_longest(tensors, texts):
            stated, why = row_of(key, text)
            row = {"key": key, "split": split} | stated | {"source": f"{file.name} {key}"}
            samples.append(Found(row, place, problem or why))
    return samples, problems


def entries_of(file: Path) -> tuple[dict[str, dict[str, list[Place]]], list[str]]:
    """Where the tensors and rows of each key are, in order, and problems of other entries."""
    entries: dict[str, dict[str, list[Place]]] = {}
    others: Counter[str] = Counter()
    problems: list[str] = []
    try:
        size = file.stat().st_size
        with tarfile.open(file, "r:") as tar:
            for entry in tar:
                key, _, kind = entry.name.rpartition(".")
                if entry.offset_data + entry.size > size:
                    raise tarfile.ReadError(f"{entry.name!r} is truncated")
                if entry.isfile() and kind in KINDS:
                    places = entries.setdefault(key, {what: [] for what in KINDS.values()})
                    places[KINDS[kind]].append((file, entry.offset_data, entry.size))
                elif entry.isfile():
                    others[kind] += 1
            # tarfile takes a damaged header for the end of the tar, which has blocks of zeros.
            end = read_place((file, tar.offset, tarfile.BLOCKSIZE))
            if not end or end.strip(b"\0"):
                raise tarfile.ReadError(f"neither a header nor the end at byte {tar.offset}")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        problems.append(
            f"{file} must be an uncompressed tar ({error}): read {len(entries):,} keys before that"
        )
    problems += [
        f"{file} has {count:,} entries .{kind}: only {' and '.join(KINDS)} are read"
        for kind, count in others.items()
    ]
    return entries, problems


def row_of(key: str, place: Place | None) -> tuple[dict[str, Any], str | None]:
    """The row of a sample, and why it cannot be read."""
    if place is None:
        return {}, None
    try:
        row = json.loads(read_place(place))
    except (ValueError, RecursionError) as error:
        return {}, f"must have JSON at {key}.json ({error})"
    if not isinstance(row, dict):
        return {}, f"must have a JSON object at {key}.json, found {str(row)[:60]}"
    return row, None


def load(place: Place | None) -> dict[str, torch.Tensor] | str:
    """The state dict at a place, or a text that says why there is none."""
    if place is None:
        return "missing"
    try:
        state = weights_of(safetensors.torch.load(read_place(place)))
    except (safetensors.SafetensorError, InputError, ValueError, KeyError) as error:
        return str(error)
    # A safetensors file does not keep the order of tensors.
    return {name: state[name] for name in sorted(state, key=natural)}


def read_place(place: Place) -> bytes:
    file, offset, size = place
    if size > MAX_TEXT:
        raise InputError(f"{file} must have entries of at most {MAX_TEXT:,} bytes, found {size:,}")
    with open(file, "rb") as content:
        content.seek(offset)
        return content.read(size)
