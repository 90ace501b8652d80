"""WebDataset with one member a sample, in `SPLIT-NNNNNN.tar`: `KEY.safetensors`, its state dict, `KEY.json`, its row."""

import json
import tarfile
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
from pipeline.exchange.layers import layout_for, layout_of, natural
from pipeline.exchange.outgoing import exported_blocks, exported_rows, file_name
from pipeline.exchange.rows import table_of
from pipeline.exchange.source import MAX_TEXT, Loaded, Source, load_states, weights_of
from pipeline.progress import Advance

MEMBERS = 10_000
"""Members in a tar."""
PLACES = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
Place = tuple[Path, int, int]
"""File, offset and length of the bytes of an entry."""


def write(zoo: Zoo, out: Path, advance: Advance):
    layout = layout_for(zoo.space, lambda i, _: f"layers.{i}", ".weight", ".bias")
    written: dict[str, int] = {}
    writer = None
    try:
        for split, block, table in exported_blocks(zoo):
            tensors = {
                name: torch.from_numpy(array) for name, array in layout.theirs(block).items()
            }
            for position, row in enumerate(exported_rows(table).to_pylist()):
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
                    "json": json_text(row).encode(),
                }
                writer.write({"__key__": file_name(row["key"])} | sample)
            advance(len(table))
    finally:
        if writer is not None:
            writer.close()


def read(path: Path) -> Source:
    """`path`: the folder of the tars."""
    files = sorted(path.glob("*.tar")) if path.is_dir() else []
    samples = [sample for file in files for sample in samples_of(file)]
    if not samples:
        raise InputError(
            f"{path} must have .tar files with samples of .safetensors and .json, found {len(files)} files and no sample"
        )
    places = [place for place, _ in samples]
    first = next((state for state in map(load, places) if not isinstance(state, str)), None)
    if first is None:
        raise InputError(
            f"{path} must have state dicts as .safetensors, found none that can be read among {len(places)}"
        )
    layout = layout_of([(name, tuple(first[name].shape)) for name in sorted(first, key=natural)])

    def read_rows(index: np.ndarray) -> Loaded:
        return load_states(layout, [load(places[i]) for i in index])

    return Source(table_of([row for _, row in samples]), layout, read_rows, files)


def samples_of(file: Path) -> list[tuple[Place | None, dict[str, Any]]]:
    """Where each sample's tensors lie, and its row. An entry's name is never used as a path."""
    entries: dict[str, dict[str, Place]] = {}
    size = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for entry in tar:
                key, _, kind = entry.name.rpartition("/")[2].partition(".")
                if (
                    entry.isfile()
                    and entry.offset_data + entry.size <= size
                    and kind in ("safetensors", "json")
                ):
                    entries.setdefault(entry.name.removesuffix(f".{kind}"), {})[kind] = (
                        file,
                        entry.offset_data,
                        entry.size,
                    )
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{file} must be an uncompressed tar ({error})") from error
    split = PLACES.get(file.name.split("-")[0])
    samples = []
    for key, places in entries.items():
        row = row_of(file, key, places["json"]) if "json" in places else {}
        samples.append(
            (
                places.get("safetensors"),
                {"key": key, "split": split} | row | {"source": f"{file.name} {key}"},
            )
        )
    return samples


def row_of(file: Path, key: str, place: Place) -> dict[str, Any]:
    try:
        row = json.loads(read_place(place))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} must have JSON at {key}.json ({error})") from error
    if not isinstance(row, dict):
        raise InputError(f"{file} must have a JSON object at {key}.json, found {str(row)[:60]}")
    return row


def load(place: Place | None) -> dict[str, torch.Tensor] | str:
    """The state dict at a place, or why there is none."""
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
