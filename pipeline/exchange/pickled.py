"""Reads files of torch.save without running pickled code: tensors, plain values, NumPy numbers.

`torch.load(weights_only=True)` refuses NumPy scalars and arrays. The stand-ins here take the place
of NumPy's functions in a pickle and read numbers from bytes: NumPy's unpickling does not run, and
nothing but numbers is created.
"""

import io
import pickle
import re
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import InputError
from pipeline.exchange.source import first_line, weights_of

UNREADABLE = (
    *(pickle.UnpicklingError, struct.error, OSError, EOFError, RuntimeError, ValueError),
    *(TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, MemoryError),
    NameError,
)
"""Exceptions of torch.load for invalid files."""
NUMBERS = {kind + size for kind in "iuf" for size in "248"} | {"i1", "u1", "b1"}
"""Codes of NumPy's numeric types in pickles."""


class Dtype:
    """`numpy.dtype(kind, align, copy)`, then its state, of which the byte order is used."""

    def __init__(self, kind: str, *_: Any):
        if kind not in NUMBERS:
            raise ValueError(f"NumPy's type {kind!r} is not a type of numbers")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: tuple):
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")


class Scalar:
    """`numpy.core.multiarray.scalar(dtype, bytes)`: a Python number."""

    def __new__(cls, kind: Dtype, data: bytes):
        return np.frombuffer(data, kind.dtype).item()


class Array:
    """`numpy.core.multiarray._reconstruct(type, shape, kind)`, then its state."""

    def __init__(self, *_: Any):
        self.values = np.zeros(0)

    def __setstate__(self, state: tuple):
        _, shape, kind, is_fortran, data = state
        if prod(shape) * kind.dtype.itemsize != len(data):
            raise ValueError(f"an array of shape {shape} must have its bytes, found {len(data)}")
        values = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if is_fortran else "C")
        self.values = values.astype(kind.dtype.newbyteorder("="))


def latin_1(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, with which pickles of protocol 2 write bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes must be written as latin1, found {encoding!r}")
    return text.encode("latin1")


STAND_INS: list[Any] = [
    (Dtype, "numpy.dtype"),
    (Array, "numpy.ndarray"),
    (latin_1, "_codecs.encode"),
    *((Scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((Array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


def save(state: Mapping[str, torch.Tensor], file: Path):
    """torch.save without the bases of views, and through memory: its errors are misleading."""
    content = io.BytesIO()
    torch.save({name: tensor.clone() for name, tensor in state.items()}, content)
    file.write_bytes(content.getvalue())


def load(file: Path | None) -> dict[str, torch.Tensor] | str:
    """The weights of a file, or why there are none."""
    try:
        return "missing" if file is None else weights_of(load_file(file))
    except InputError as error:
        return str(error)


def load_file(file: Path) -> Any:
    """Raises InputError unless torch.save made it from tensors, plain values and NumPy numbers."""
    try:
        with torch.serialization.safe_globals(STAND_INS):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise InputError(
            f"{file.name} cannot be read by torch.load(weights_only=True): {why(error)}"
        ) from error
    return as_tensors(content) if isinstance(content, Mapping) else content


def why(error: BaseException) -> str:
    """The error of torch.load, without its advice to load the file unsafely."""
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it holds {found[1]}, but only tensors, plain values and NumPy numbers are read"
    found = re.search(r"WeightsUnpickler error: (.*)", str(error))
    said = found[1].strip() if found else first_line(error)
    return said or "it is not a file of torch.save"


def as_tensors(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """Replace NumPy arrays by tensors, and 0-d arrays by numbers."""
    return {
        name: (value.values.item() if value.values.ndim == 0 else torch.from_numpy(value.values))
        if isinstance(value, Array)
        else value
        for name, value in content.items()
    }
