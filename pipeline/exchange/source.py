"""A zoo in another format, opened for reading: rows of the members, and their tensors on demand."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.errors import InputError
from pipeline.exchange.layers import Layout, layout_of

VOTERS = 9
"""Number of members that determine the architecture of a source."""
MAX_TEXT = 2**30
"""Maximum size of a text file in bytes, uncompressed."""


@dataclass(frozen=True)
class Source:
    rows: pa.Table
    """One row per member. Columns with a meaning: `key`, `split` (train, validation, test or null),
    `group` (members of one run or signal), `label`, `source` (where the member is); all others are
    kept as they are."""
    layout: Layout
    read: Callable[[np.ndarray], "Loaded"]
    """Reads the members of rows."""
    files: Sequence[Path]
    """All files that are read, for the checksum."""
    problems: Mapping[int, str] = field(default_factory=dict)
    """Why a row cannot be used, whatever its weights."""
    left_out: Sequence[str] = ()
    """What else was found and could not be read, one sentence each."""
    decode: Mapping[str, Any] = field(default_factory=dict)
    """How to run a member, according to the format."""
    class_names: tuple[str, ...] | None = None

    def load(self, index: np.ndarray) -> "Loaded":
        """The members of these rows, with all problems."""
        if not len(index):
            return Loaded(np.zeros((0, self.layout.num_parameters), np.float32), {})
        loaded = self.read(index)
        known = {
            position: self.problems[row]
            for position, row in enumerate(index.tolist())
            if row in self.problems
        }
        return Loaded(loaded.values, loaded.problems | known)


@dataclass(frozen=True)
class Found:
    """A member found in a source."""

    row: dict[str, Any]
    """Its columns in the source."""
    place: Any
    """Where its weights are; None if there are none."""
    problem: str | None = None
    """Why it cannot be used, whatever its weights."""


@dataclass(frozen=True)
class Loaded:
    values: np.ndarray
    """`(members, parameters)` float32, in the order of the weight space."""
    problems: dict[int, str]
    """Why members have no weights, by position."""


def common_layout(where: Path, states: Iterable[Mapping[str, torch.Tensor] | str]) -> Layout:
    """The most frequent layout of the first readable members, as the very first may be an outlier.

    Raises InputError if none can be read.
    """
    votes: Counter[tuple] = Counter()
    layouts: dict[tuple, Layout] = {}
    problems: list[str] = []
    for state in states:
        try:
            if isinstance(state, str):
                raise InputError(state)
            layout = layout_of([(name, tuple(tensor.shape)) for name, tensor in state.items()])
        except InputError as error:
            problems.append(str(error))
            continue
        architecture = tuple((tensor.name, tensor.shape) for tensor in layout.tensors)
        layouts.setdefault(architecture, layout)
        votes[architecture] += 1
        if votes.total() == VOTERS:
            break
    if not votes:
        found = f"{len(problems)} members, of which none can be read; the first {problems[0]}"
        raise InputError(f"{where} must have state dicts, found {found if problems else 'none'}")
    return layouts[votes.most_common(1)[0][0]]


def load_matrix(layout: Layout, tensors: Mapping[str, np.ndarray]) -> Loaded:
    """Members from stacked tensors of another format; those that are not finite count as failed."""
    return refuse_nonfinite(Loaded(layout.rows(tensors), {}))


def load_states(layout: Layout, states: Sequence[Mapping[str, torch.Tensor] | str]) -> Loaded:
    """Members from one state dict each, or a text that says why there is none."""
    values = np.zeros((len(states), layout.num_parameters), np.float32)
    problems = {}
    for position, state in enumerate(states):
        if isinstance(state, str) or isinstance(state := fitting(layout, state), str):
            problems[position] = state
            continue
        values[position] = layout.rows(
            {name: tensor.numpy()[None] for name, tensor in state.items()}
        )[0]
    return refuse_nonfinite(Loaded(values, problems))


def fitting(layout: Layout, state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor] | str:
    """The state dict with the names of the layout, or a text if its architecture differs.

    Names may differ between members, for example due to modules without weights (dropout): layers
    are matched in order.
    """
    if [(name, tuple(tensor.shape)) for name, tensor in state.items()] == [
        (own.theirs, own.their_shape) for own in layout.tensors
    ]:
        return state
    try:
        own = layout_of([(name, tuple(tensor.shape)) for name, tensor in state.items()])
    except InputError as error:
        return str(error)
    if [(tensor.name, tensor.shape) for tensor in own.tensors] != [
        (tensor.name, tensor.shape) for tensor in layout.tensors
    ]:
        expected = {tensor.theirs: tensor.their_shape for tensor in layout.tensors}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        return f"must have tensors {expected}, found {found}"
    return {
        tensor.theirs: state[mine.theirs]
        for tensor, mine in zip(layout.tensors, own.tensors, strict=True)
    }


def as_float32(values: np.ndarray) -> np.ndarray:
    """Cast to float32. Values out of range become infinite, and their members fail."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def refuse_nonfinite(loaded: Loaded) -> Loaded:
    """Add a problem for each member with NaN or infinite weights."""
    broken = np.flatnonzero(~np.isfinite(loaded.values).all(1))
    return Loaded(
        loaded.values, {int(position): "not finite" for position in broken} | loaded.problems
    )


def read_text(path: Path) -> str:
    """Raises InputError if the file is missing, too large or not UTF-8."""
    if not path.is_file():  # reading a pipe would block
        raise InputError(f"{path} cannot be read: expected a file, found none")
    try:
        if path.stat().st_size > MAX_TEXT:
            raise InputError(
                f"{path} must have at most {MAX_TEXT:,} bytes, found {path.stat().st_size:,}"
            )
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error})") from error


def read_json(path: Path) -> Any:
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} must hold JSON ({error})") from error


def first_line(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def weights_of(content: Any) -> dict[str, torch.Tensor]:
    """Weights and biases in the result of torch.load. Raises InputError without a state dict."""
    if not isinstance(content, Mapping):
        raise InputError(f"must be a state dict, found {type(content).__name__}")
    state = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and name.endswith((".weight", ".bias"))
    }
    for name, tensor in state.items():
        if (
            not isinstance(tensor, torch.Tensor)
            or not tensor.is_floating_point()
            or tensor.device.type != "cpu"
            or tensor.layout != torch.strided
            or tensor.nbytes > tensor.untyped_storage().nbytes()
        ):
            raise InputError(f"tensor {name!r} must be a dense tensor of floating point numbers")
    if not state:
        raise InputError(f"must have tensors NAME.weight and NAME.bias, found {list(content)[:6]}")
    return {name: tensor.detach().resolve_neg().to(torch.float32) for name, tensor in state.items()}
