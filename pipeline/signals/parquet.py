"""Images in Parquet files as the Hugging Face hub has them: a struct of encoded bytes and an integer label a row."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.signals.images import decode_images, image_signals, name_below
from pipeline.signals.signals import Signals

IMAGE_COLUMNS = ("image", "img")


def load_parquet(path: Path, size: int | None) -> Signals:
    """Every row of every `*.parquet` of the folder; files whose name begins with 'test' are the source's own test split."""
    files = sorted(
        path.glob("*.parquet"), key=lambda file: (file.name.startswith("test"), file.name)
    )
    if not files:
        raise InputError(f"{path} must hold *.parquet files, found none")
    names, sources, labels, held_out, class_names = [], [], [], [], []
    for file in files:
        table = read_table(file)
        column = next(name for name in IMAGE_COLUMNS if name in table.column_names)
        names += [name_below(path, file, row) for row in range(len(table))]
        sources += [image["bytes"] for image in table[column].to_pylist()]
        labels += table["label"].to_pylist()
        held_out += [file.name.startswith("test")] * len(table)
        class_names = class_names or label_names(table.schema)
    class_names = class_names or [str(label) for label in range(max(labels) + 1)]
    return image_signals(
        path.resolve().name,
        names,
        decode_images(names, sources, size),
        labels,
        class_names,
        held_out if any(held_out) else None,
    )


def read_table(file: Path) -> pa.Table:
    try:
        table = pq.read_table(file, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet ({error}): replace it") from error
    images = [name for name in IMAGE_COLUMNS if name in table.column_names]
    if not images or "label" not in table.column_names:
        raise InputError(
            f"{file} must have columns 'image' (or 'img') and 'label', found {table.column_names}"
        )
    kind = table.schema.field(images[0]).type
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise InputError(
            f"column {images[0]!r} of {file} must be a struct with a field 'bytes', found {kind}"
        )
    return table


def label_names(schema: pa.Schema) -> list[str]:
    """The class names that the hub's metadata gives, none where it gives none."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return metadata.get("info", {}).get("features", {}).get("label", {}).get("names", [])
