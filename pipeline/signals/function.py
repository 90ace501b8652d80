"""Signals made by a function of the user, named package.module:function."""

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import InputError
from pipeline.functions import failures_of, find_function
from pipeline.signals.facts import check_facts
from pipeline.signals.labels import NO_LABEL, array_labels, class_labels
from pipeline.signals.signals import Signals


def load_function(source: str, size: int | None) -> Signals:
    """Call the function once with `size`; its module may be in the working directory.

    It returns `Signals`, or a tuple of values `(signals, *grid, channels)`, labels `(signals,)`
    (class names as strings or integers, or None) and optionally facts (a dict of numeric columns
    `(signals,)`), and must return the same each time. Raises InputError if there is no such
    function, or if it fails or returns anything else.
    """
    function = find_function(source, "signals.source")
    with failures_of(f"signals.source {source}"):
        made = function(size)
    if isinstance(made, Signals):
        return check_signals(source, made)
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        found = f"{len(made)} of these" if isinstance(made, tuple) else type(made).__name__
        raise InputError(
            f"{source} must return Signals or a tuple (values, labels) or (values, labels, facts), "
            f"found {found}"
        )
    what = f"the labels of {source}"
    try:
        values = np.asarray(made[0])
    except ValueError as error:
        raise InputError(
            f"{source} must return values of one shape for all signals, found several ({error})"
        ) from error
    count = len(values) if values.ndim else 0
    labels = (
        pa.nulls(count) if made[1] is None else array_labels(what, np.asanyarray(made[1]), count)
    )
    facts = made[2] if len(made) == 3 else {}
    signals = Signals(source, values, *class_labels(what, [labels]), facts=facts)
    return check_signals(source, signals)


def check_signals(what: str, signals: Signals) -> Signals:
    """The signals as float32 and int64. Raises InputError for other shapes, types or values."""
    values, labels = np.asarray(signals.values), np.asarray(signals.labels)
    if (
        values.dtype.kind not in "fiub"
        or values.ndim < 3
        or not len(values)
        or min(values.shape[1:-1]) < 2
        or not values.shape[-1]
    ):
        raise InputError(
            f"{what} must return values (signals, *grid, channels) with at least two points along "
            f"each axis of the grid, found {values.dtype} {values.shape}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != values.shape[:1]:
        raise InputError(
            f"{what} must return an integer as label of each of {len(values)} signals, found "
            f"{labels.dtype} {labels.shape}"
        )
    if labels.min() < NO_LABEL or labels.max() >= len(signals.class_names):
        raise InputError(
            f"{what} must return labels 0 to {len(signals.class_names) - 1}, or {NO_LABEL} for "
            f"none, found {labels.min()} to {labels.max()}"
        )
    splits = check_splits(what, signals, len(values))
    values = values.astype(np.float32)
    with np.errstate(invalid="ignore"):
        if (values < 0).any() or (values > 1).any():
            raise InputError(
                f"{what} must return values in [0, 1], found {np.nanmin(values):g} to "
                f"{np.nanmax(values):g}"
            )
    if signals.names is not None and len(signals.names) != len(values):
        raise InputError(
            f"{what} must return a name for each of {len(values)} signals or none, found "
            f"{len(signals.names)}"
        )
    class_names = tuple(str(name) for name in signals.class_names)
    failures = dict(signals.failures)
    if strange := [i for i in failures if i not in range(len(values))]:
        raise InputError(
            f"{what} must return failures by position, 0 to {len(values) - 1}, found {strange[0]!r}"
        )
    values[[*failures]] = np.nan
    if class_names:
        unlabelled = labels == NO_LABEL
        values[unlabelled] = np.nan
        failures = dict.fromkeys(np.flatnonzero(unlabelled).tolist(), "has no label") | failures
    broken = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1)).tolist()
    return Signals(
        signals.name,
        values,
        labels.astype(np.int64),
        class_names,
        names=None if signals.names is None else tuple(str(name) for name in signals.names),
        failures={i: str(failures.get(i, "has values that are not finite")) for i in broken},
        facts=check_facts(what, signals.facts, len(values)),
        originals=signals.originals,
        **splits,
    )


def check_splits(what: str, signals: Signals, count: int) -> dict[str, Any]:
    """The splits of the signals by name, `(count,)` bool. Raises InputError if they are invalid."""
    splits = {name: getattr(signals, name) for name in ("held_out", "validation")}
    splits = {name: np.asarray(split) for name, split in splits.items() if split is not None}
    for name, split in splits.items():
        if split.dtype != bool or split.shape != (count,):
            raise InputError(
                f"{what} must return {name} as {count} booleans, found {split.dtype} {split.shape}"
            )
    if len(splits) == 2 and (splits["held_out"] & splits["validation"]).any():
        raise InputError(
            f"{what} must return held_out and validation that have no signal in common"
        )
    return splits
