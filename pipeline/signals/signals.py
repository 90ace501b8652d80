"""Signals on a common grid, with labels and facts."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.errors import InputError


@dataclass(frozen=True)
class Signals:
    """Signals on one grid, to which INRs are fitted."""

    name: str
    values: np.ndarray
    """`(signals, *grid, channels)` float32 in [0, 1]; NaN where a signal could not be read."""
    labels: np.ndarray
    """`(signals,)` int64: index into `class_names`; -1 for a signal without a class."""
    class_names: tuple[str, ...]
    """Empty if no signal has a class."""
    held_out: np.ndarray | None = None
    """`(signals,)` bool: the source's own test split, if it has one."""
    names: tuple[str, ...] | None = None
    """Where each signal is in its source: the path of its file, with `:ROW` if a file holds many;
    None for generated signals."""
    failures: Mapping[int, str] = field(default_factory=dict)
    """Why signals could not be read, by position."""
    validation: np.ndarray | None = None
    """`(signals,)` bool: the source's own validation split, if it has one."""
    taken: str = ""
    """How the source was read, and what was left out and why, in one line."""
    facts: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Known numbers of each signal, by name: `(signals,)` int64, or float64 with NaN if unknown."""
    originals: np.ndarray | None = None
    """`values` before the operation; None if there was none."""
    by_formula: bool = False
    """Whether values and facts come from one formula: then the digest covers only the values."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def grid(self) -> tuple[int, ...]:
        return self.values.shape[1:-1]

    @property
    def num_channels(self) -> int:
        return self.values.shape[-1]

    def digest(self) -> str:
        """sha256 of values, labels, class names, splits and facts, independent of where they are.

        Facts by formula are not included, so that signals keep the digest they had before facts.
        """
        digest = hashlib.sha256(repr((self.values.shape, self.class_names)).encode())
        digest.update(np.ascontiguousarray(self.values, np.float32).tobytes())
        digest.update(np.ascontiguousarray(self.labels, np.int64).tobytes())
        if self.held_out is not None:
            digest.update(self.held_out.tobytes())
        if self.validation is not None:
            digest.update(b"validation" + self.validation.tobytes())
        for name, numbers in () if self.by_formula else sorted(self.facts.items()):
            digest.update(f"fact {name} {numbers.dtype}".encode() + numbers.tobytes())
        return digest.hexdigest()

    def take(self, limit: int) -> "Signals":
        """`limit` evenly spaced signals, or all if there are fewer."""
        if limit >= len(self):
            return self
        some = self.at(np.arange(limit) * len(self) // limit)
        return replace(
            some, taken=f"{self.taken}; of these {limit:,}, evenly" if self.taken else ""
        )

    def at(self, index: np.ndarray) -> "Signals":
        """The signals at positions `index` `(signals,)`, in that order."""
        return replace(
            self,
            values=self.values[index],
            labels=self.labels[index],
            held_out=None if self.held_out is None else self.held_out[index],
            validation=None if self.validation is None else self.validation[index],
            names=None if self.names is None else tuple(self.names[i] for i in index),
            facts={name: numbers[index] for name, numbers in self.facts.items()},
            originals=None if self.originals is None else self.originals[index],
            failures={
                place: self.failures[i]
                for place, i in enumerate(index.tolist())
                if i in self.failures
            },
        )

    def called(self, index: int) -> str:
        """The name of a signal for messages, or its position if it has none."""
        return str(index) if self.names is None else self.names[index]


def coordinates(grid: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """`(points, dims)` float32 in [low, high], ends included, row-major: (y, x) for images."""
    if min(grid) < 2:
        raise InputError(f"a signal's grid needs at least two points per side, got {grid}")
    axes = [np.linspace(low, high, size, dtype=np.float32) for size in grid]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(grid))


def cell_centres(values: Any, num_dims: int) -> Any:
    """Interpolate `(signals, *grid, channels)` multilinearly at the centres of the grid's cells.

    Takes an array or a tensor and returns the same kind: `(signals, *(grid - 1), channels)`, the
    mean of the 2^num_dims corners of each cell.
    """
    for axis in range(1, 1 + num_dims):
        low, high = (
            (slice(None),) * axis + (slice(None, -1),),
            (slice(None),) * axis + (slice(1, None),),
        )
        values = (values[low] + values[high]) / 2
    return values
