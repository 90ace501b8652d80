"""Signals that a function of the user's makes, named as package.module:function."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.signals.signals import Signals


def load_function(source: str, size: int | None) -> Signals:
    """Call the function once with `size`; the module may lie in the working directory.

    It returns `Signals`, or values `(signals, *grid, channels)` and labels `(signals,)` whose classes are called by their
    numbers; the same ones each time. What the user's code raises is not caught. Raises InputError where there is no such
    function or it returns something else.
    """
    made = find_function(source)(size)
    if isinstance(made, Signals):
        return check_signals(source, made)
    if not isinstance(made, tuple) or len(made) != 2:
        raise InputError(
            f"{source} must return Signals or a tuple (values, labels), found {type(made).__name__}"
        )
    values, labels = (np.asarray(part) for part in made)
    highest = int(labels.max()) if labels.size and np.issubdtype(labels.dtype, np.integer) else 0
    return check_signals(
        source, Signals(source, values, labels, tuple(str(label) for label in range(highest + 1)))
    )


def find_function(source: str) -> Any:
    name, _, attribute = source.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # a module that the user's own one needs
        raise InputError(
            f"signals.source names {source}: there is no module {error.name!r} in {Path.cwd()} or installed"
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise InputError(
            f"signals.source names {source}: module {name!r} has no function {attribute!r}"
        )
    return function


def check_signals(what: str, signals: Signals) -> Signals:
    """The signals as float32 and int64. Raises InputError where shapes, types or values are not those of `Signals`."""
    values, labels, held_out = (
        np.asarray(part) for part in (signals.values, signals.labels, signals.held_out)
    )
    if (
        values.dtype.kind not in "fiub"
        or values.ndim < 3
        or not len(values)
        or min(values.shape[1:-1]) < 2
        or not values.shape[-1]
    ):
        raise InputError(
            f"{what} must return values (signals, *grid, channels) with at least two points along each axis of the grid, found "
            f"{values.dtype} {values.shape}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != values.shape[:1]:
        raise InputError(
            f"{what} must return a whole number as label of each of {len(values)} signals, found {labels.dtype} {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= len(signals.class_names):
        raise InputError(
            f"{what} must return labels 0 to {len(signals.class_names) - 1}, found {labels.min()} to {labels.max()}"
        )
    if signals.held_out is not None and (held_out.dtype != bool or held_out.shape != labels.shape):
        raise InputError(
            f"{what} must return held_out as {len(values)} truth values, found {held_out.dtype} {held_out.shape}"
        )
    values = values.astype(np.float32)
    with np.errstate(invalid="ignore"):
        if (values < 0).any() or (values > 1).any():
            raise InputError(
                f"{what} must return values in [0, 1], found {np.nanmin(values):g} to {np.nanmax(values):g}"
            )
    if signals.names is not None and len(signals.names) != len(values):
        raise InputError(
            f"{what} must return a name for each of {len(values)} signals or none, found {len(signals.names)}"
        )
    broken = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1)).tolist()
    return Signals(
        signals.name,
        values,
        labels.astype(np.int64),
        tuple(str(name) for name in signals.class_names),
        None if signals.held_out is None else held_out,
        None if signals.names is None else tuple(str(name) for name in signals.names),
        {i: str(signals.failures.get(i, "has values that are not finite")) for i in broken},
    )
