"""Files that appear whole or not at all."""

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError


def write_atomic(path: Path, data: bytes):
    """Write under a temporary name, flush to disk, rename. After an error or a kill `path` is as it was before."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_array(path: Path, size: int) -> np.ndarray:
    """The `(size,)` bytes of a file, uint8, in memory of their own. Raises ValueError where it has another size.

    Not mapped: whoever cut the file short would end the process, and whoever wrote into it would change what was checked.
    NumPy takes large arrays from huge pages, so that fresh memory costs little.
    """
    with open(path, "rb", buffering=0) as file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise ValueError(f"{path} must have {size} bytes, found {found}")
        data = np.empty(size, np.uint8)
        while size and (count := file.readinto(data[-size:])):
            size -= count
    if size:
        raise ValueError(f"{path} must have {len(data)} bytes, found {len(data) - size}")
    return data


def write_json(path: Path, value: Any):
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def sweep_temporaries(folder: Path):
    """Remove what writers that were killed left behind. Only for the one process that owns `folder`."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def sha256(data: bytes | np.ndarray) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Make `folder` and hold it for this process alone; the lock ends with the process, however it ends.

    Raises InputError where another process holds it or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror}): choose another --out or mend its permissions"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InputError(f"{folder} is in use by another dwszoo process: wait for it or choose another --out") from None
    try:
        yield
    finally:
        os.close(lock)
