"""Inputs of a model beside the weights: catalog columns, encoded as numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError, nearest
from pipeline.tasks.columns import require_int64


def check_inputs(zoo: Zoo, names: Sequence[str]):
    """Raise InputError for a column that cannot be an input of a model.

    It must hold strings or numbers, known for every member, and no string that is not in the train
    split, as a model could not know it.
    """
    for name in names:
        kind = zoo.record.schema.field(name).type
        if not (pa.types.is_string(kind) or is_number(kind) or pa.types.is_boolean(kind)):
            raise InputError(
                f"column {name!r} of zoo {zoo.folder} must hold strings or numbers to be an input, "
                f"found {kind}"
            )
        if not zoo.is_sealed:
            continue
        require_int64(zoo, name)
        members = zoo.catalog.filter(pc.field("status") == "ok")
        unknown = members.filter(pc.invert(is_known(members[name])))
        if len(unknown):
            raise InputError(
                f"column {name!r} of zoo {zoo.folder} must be known for every member to be an "
                f"input, found {unknown[name][0]} for {unknown['key'][0]}: leave it out of "
                "training.task.inputs"
            )
        if pa.types.is_string(kind):
            check_texts(name, members[name].unique().to_pylist(), texts_of(zoo, name))


def is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def is_known(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Mask of the values that are neither null nor, in the float32 of a batch, NaN or infinite."""
    if not pa.types.is_floating(column.type):
        return column.is_valid()
    return pc.fill_null(pc.is_finite(column.cast(pa.float32(), safe=False)), False)


def texts_of(zoo: Zoo, name: str) -> list[str]:
    """The sorted distinct values of a text column in the whole train split."""
    is_train = (pc.field("split") == "train") & (pc.field("status") == "ok")
    return sorted(zoo.catalog.filter(is_train)[name].unique().to_pylist())


def check_texts(name: str, found: Sequence[str], known: Sequence[str]):
    for text in found:
        if text not in known:
            raise InputError(
                f"input {name!r} must be one of the values of the train split, {', '.join(known)}, "
                f"found {text!r}{nearest(text, known)}"
            )


def describe_inputs(zoo: Zoo, names: Sequence[str]) -> list[dict[str, Any]]:
    """For each input, its values in the train split, or its mean and standard deviation there."""
    described: list[dict[str, Any]] = []
    for name in names:
        if pa.types.is_string(zoo.record.schema.field(name).type):
            described.append({"name": name, "values": texts_of(zoo, name)})
        else:
            numbers = zoo.members("train")[name].cast(pa.float64(), safe=False).to_numpy()
            std = float(numbers.std())
            described.append(
                {
                    "name": name,
                    "mean": float(numbers.mean()),
                    "std": std if np.float32(std) else 1.0,
                }
            )
    return described


def width_of(described: Sequence[Mapping[str, Any]]) -> int:
    """Width of the output of `encode`."""
    return sum(len(one.get("values", (None,))) for one in described)


def encode(
    described: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Any],
    like: Tensor,
) -> Tensor:
    """Texts one-hot and numbers standardised: `(batch, width)`, with device and dtype of `like`.

    Raises InputError for a missing column, and for a string that is not in the train split.
    """
    parts = [torch.zeros(len(like), 0).to(like)]
    for one in described:
        name = one["name"]
        if name not in columns:
            raise InputError(
                f"the model takes column {name!r} as an input beside the weights, but the catalog "
                "of the zoo does not have it"
            )
        if "values" in one:
            known, texts = np.array(one["values"]), columns[name]
            check_texts(name, texts, one["values"])
            hot = np.array(texts)[:, None] == known
            parts.append(torch.from_numpy(hot).to(like))
        else:
            parts.append(((columns[name].to(like) - one["mean"]) / one["std"]).unsqueeze(1))
    return torch.cat(parts, 1)
