"""Classes: labels of signals, or the strings, integers or booleans of another catalog column."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.tasks.columns import require_int64
from pipeline.tasks.task import LABEL, Batch


def is_of_classes(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind)


def class_names(zoo: Zoo, name: str) -> list[str]:
    """The classes of all members that have weights, sorted as numbers or as strings."""
    if name == LABEL:
        return list(zoo.record.class_names)
    found = with_weights(zoo)[name]
    if pa.types.is_boolean(found.type):
        found = found.cast(pa.int64())  # as in a batch
    return [str(value) for value in sorted(pc.unique(found).to_pylist())]


def with_weights(zoo: Zoo) -> pa.Table:
    return zoo.catalog.filter(pc.field("status") == "ok")


def labels_of(values: Any, name: str, names: Sequence[str]) -> Tensor:
    """`(batch,)` int64: the index of each value of a batch's column, a tensor or a list, in the
    class names, else -1."""
    if name == LABEL:
        return torch.where(values < len(names), values, -1)  # another zoo may have more classes
    place = {known: i for i, known in enumerate(names)}
    texts = values.tolist() if isinstance(values, Tensor) else values
    labels = [place.get(str(value), -1) for value in texts]
    return torch.tensor(labels, device=values.device if isinstance(values, Tensor) else None)


def classes_of(batch: Batch, name: str) -> list[str | None]:
    """Each member's class as its zoo names it; None if it has none, or there is no such column."""
    values = batch.columns.get(name, [None] * len(batch))
    values = values.tolist() if isinstance(values, Tensor) else values
    if name == LABEL:
        known = dict(enumerate(batch.class_names))
        return [known.get(value) for value in values]
    return [None if value is None else str(value) for value in values]


def check_classes(zoo: Zoo, name: str):
    """Raise InputError unless this column gives each member one of two or more classes."""
    start = f"zoo {zoo.folder} has no classes to learn"
    members = with_weights(zoo)
    if name != LABEL:
        kind = zoo.record.schema.field(name).type
        if not is_of_classes(kind):
            raise InputError(
                f"{start}: column {name!r} must hold strings, integers or booleans, found {kind}; "
                "training.task.kind=regression learns numbers"
            )
        if not len(members):
            return  # nothing is fitted yet
        require_int64(zoo, name)
        if members[name].null_count:
            raise InputError(
                f"{start}: {members[name].null_count:,} of {len(members):,} members have no "
                f"{name!r}"
            )
    names = class_names(zoo, name)
    if len(names) < 2:
        raise InputError(
            f"{start}: its members must have labels of two classes or more, found "
            f"{', '.join(names) or 'none'}; label the signals, or only build the zoo with `dwszoo "
            "zoo build`"
        )
    if members[name].null_count:
        raise InputError(f"{start}: all its members must have labels")
