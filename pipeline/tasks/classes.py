"""Classes: the label of the signal, or the texts, whole numbers or truth values of another catalog column."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.tasks.task import LABEL, Batch


def is_of_classes(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind)


def class_names(zoo: Zoo, name: str) -> list[str]:
    """Classes of all members that have weights, numbers in their order and texts in theirs."""
    if name == LABEL:
        return list(zoo.record.class_names)
    found = with_weights(zoo)[name]
    if pa.types.is_boolean(found.type):
        found = found.cast(pa.int64())  # as in a batch
    return [str(value) for value in sorted(pc.unique(found).to_pylist())]


def with_weights(zoo: Zoo) -> pa.Table:
    return zoo.catalog.filter(pc.field("status") == "ok")


def labels_of(values: Tensor | Sequence[Any], name: str, names: Sequence[str]) -> Tensor:
    """`(batch,)` int64: where each value of a batch's column stands among the class names; -1 where it does not."""
    if name == LABEL:
        return torch.where(values < len(names), values, -1)  # another zoo may have more classes
    place = {known: i for i, known in enumerate(names)}
    texts = values.tolist() if isinstance(values, Tensor) else values
    labels = [place.get(str(value), -1) for value in texts]
    return torch.tensor(labels, device=values.device if isinstance(values, Tensor) else None)


def classes_of(batch: Batch, name: str) -> list[str | None]:
    """What the zoo of a batch calls each member's class; None where it has none, or no such column."""
    values = batch.columns.get(name, [None] * len(batch))
    values = values.tolist() if isinstance(values, Tensor) else values
    if name == LABEL:
        known = dict(enumerate(batch.class_names))
        return [known.get(value) for value in values]
    return [None if value is None else str(value) for value in values]


def check_classes(zoo: Zoo, name: str):
    """Raises InputError where the members of a zoo have no two classes or more by this column, all of them."""
    start = f"zoo {zoo.folder} has no classes to learn"
    members = with_weights(zoo)
    if name != LABEL:
        kind = zoo.record.schema.field(name).type
        if not is_of_classes(kind):
            raise InputError(
                f"{start}: column {name!r} must hold texts, whole numbers or truth values, found {kind}; "
                "training.task.kind=regression learns numbers"
            )
        if not len(members):
            return  # nothing is fitted yet
        if members[name].null_count:
            raise InputError(
                f"{start}: {members[name].null_count:,} of {len(members):,} members have no {name!r}"
            )
    names = class_names(zoo, name)
    if len(names) < 2:
        raise InputError(
            f"{start}: its members must have labels of two classes or more, found "
            f"{', '.join(names) or 'none'}; label the signals, or make the zoo alone with `dwszoo zoo build`"
        )
    if members[name].null_count:
        raise InputError(f"{start}: its members must have labels, whole numbers or names")
