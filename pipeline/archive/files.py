"""The files of archives and runs: they appear whole or not at all, on this machine and in object stores."""

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from pipeline.errors import InputError, InUseError
from pipeline.location import Location, RemotePath

NOT_FINITE = re.compile(r'"(?:[^"\\]|\\.)*"|NaN|Infinity')
"""Words of json.dumps that are no JSON, and texts, in which they may stand."""
LOCK = ".lock"
"""The file that says which process holds a folder."""

FILES = (".csv", ".gz", ".json", ".npz", ".parquet", ".png", ".pt", ".pth", ".tar", ".tgz", ".zip")
"""Endings that say what a file holds."""

logger = logging.getLogger(__name__)


def write_atomic(path: Location, data: bytes):
    """Write under a temporary name, flush to disk, rename. After an error or a kill `path` is as it was before.

    An object store does the same by itself: an upload that does not come to its end is never seen.
    """
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # of a length that all names may have
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_kind(path: Path, *kinds: str) -> str:
    """The ending of a file's name, which says what is written into it: one of `kinds`, such as 'png'.

    Raises InputError where it is another, or there is no place for such a file.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in kinds:
        raise InputError(
            f"cannot write {path}: expected a name that ends in {' or '.join(f'.{kind}' for kind in kinds)}"
        )
    if path.is_dir() or not path.parent.is_dir():
        expected = "a file" if path.is_dir() else f"a folder {path.parent}"
        found = "a folder" if path.is_dir() else "none"
        raise InputError(f"cannot write {path}: expected {expected}, found {found}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: expected that {path.parent} can be written to")
    return kind


def require_folder_name(path: Location):
    """Raises InputError where a folder would have the name of a file of another kind."""
    if path.name.lower().endswith(FILES):
        raise InputError(
            f"{path} would be a folder and is named as a file: choose an --out without such an ending"
        )


def read_array(path: Location, size: int, span: slice = slice(None)) -> np.ndarray:
    """The bytes of a file of `size`, or a span of them, uint8, in memory of their own.

    Raises ValueError where the file has another size, or does not hold the span.

    Not mapped: whoever cut the file short would end the process, and whoever wrote into it would change what was checked.
    NumPy takes large arrays from huge pages, so that fresh memory costs little.
    """
    start, stop = span.start or 0, size if span.stop is None else span.stop
    if not 0 <= start <= stop <= size:
        raise ValueError(f"{path} has no bytes {start} to {stop}, but {size}")
    filesystem, name = opened(path)
    with filesystem.open_input_file(name) as file:
        found, wanted = file.size(), size
        if found == wanted:
            data, wanted = np.empty(stop - start, np.uint8), stop - start
            file.seek(start)
            found = file.readinto(data)
    if found != wanted:
        raise ValueError(f"{path} must have {wanted} bytes, found {found}")
    return data


def list_files(folder: Location) -> dict[Location, int]:
    """The files in `folder` with their sizes in bytes; none where there is no folder."""
    if isinstance(folder, Path):
        inside = folder.iterdir() if folder.is_dir() else ()
        return {file: file.stat().st_size for file in inside if file.is_file()}
    filesystem, name = folder.opened
    found = filesystem.get_file_info(FileSelector(name, allow_not_found=True))
    return {folder / info.base_name: info.size for info in found if info.is_file}


def list_folders(folder: Location) -> list[Location]:
    """The folders in `folder`; none where there is no folder."""
    if isinstance(folder, Path):
        return [inside for inside in folder.iterdir() if inside.is_dir()] if folder.is_dir() else []
    filesystem, name = folder.opened
    found = filesystem.get_file_info(FileSelector(name, allow_not_found=True))
    return [folder / info.base_name for info in found if info.type is FileType.Directory]


def remove_folder(folder: Location):
    """With all that is in it, if it is there."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    filesystem, name = folder.opened
    filesystem.delete_dir_contents(name, missing_dir_ok=True)
    with suppress(FileNotFoundError):
        filesystem.delete_dir(name)


def opened(path: Location) -> tuple[FileSystem, str | bytes]:
    """A file system, and how it calls `path`: by bytes on this machine, where a name may be in no encoding."""
    return path.opened if isinstance(path, RemotePath) else (LocalFileSystem(), os.fsencode(path))


def write_json(path: Location, value: Any):
    write_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON of a value that other programs measured: for numbers that are not finite JSON has no words.

    NaN becomes null, infinity 1e999, which all readers that compute in float64 take for infinity.
    """
    words = {"NaN": "null", "Infinity": "1e999"}
    return NOT_FINITE.sub(
        lambda match: words.get(match[0], match[0]), json.dumps(value, indent=indent)
    )


def read_json(path: Location) -> Any:
    """Raises ValueError for what is no JSON."""
    return parse_json(path.read_bytes())


def parse_json(data: bytes) -> Any:
    """Raises ValueError for what is no JSON."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deep") from error


def sweep_temporaries(folder: Location):
    """Remove what writers that were killed left behind. Only for the one process that owns `folder`."""
    for file in list_files(folder):
        if is_temporary(file.name):
            file.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name has not got its final name yet."""
    return name.startswith(".") and name.endswith(".tmp")


def sha256(data: bytes | np.ndarray) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def exclusive(folder: Location) -> Iterator[None]:
    """Make `folder` and hold it for this process alone; the lock ends with the process, however it ends. What a process
    that was killed left half-written is removed at the beginning, what this one leaves at the end, and so are folders that
    were made here in which nothing was written.

    An object store has no locks, nor have some file systems, for which there is a warning. Two processes that build one zoo
    there write the same bytes; of two with different configurations the second is refused, by zoo.json, unless they begin
    within the same moment.

    Raises InUseError where another process holds it, InputError where the folder cannot be written.
    """
    require_folder_name(folder)
    if isinstance(folder, RemotePath):
        yield
        return
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    lock = hold(folder)
    if lock is None:
        yield  # what is half-written may be another's
        return
    try:
        remove_half_written(folder)
        yield
    finally:
        remove_half_written(folder)
        remove_unused(made)
        os.close(lock)


def hold(folder: Path) -> int | None:
    """The descriptor that holds `folder` as long as it is open; None, after one warning, where it cannot be locked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror}): choose another --out or mend its permissions"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InUseError(
            f"{folder} is in use by another dwszoo process: wait for it or choose another --out"
        ) from None
    except OSError as error:  # NFS, Lustre and FUSE, as they are mounted
        os.close(lock)
        logger.warning(
            "%s cannot be locked (%s): start no other command that writes there",
            folder,
            error.strerror,
        )
        return None
    if os.fstat(lock).st_nlink:
        return lock
    os.close(lock)  # another process, which wrote nothing, has just removed it with the folder
    return hold(folder)


def remove_unused(made: list[Path]):
    """Remove folders, the innermost first, in which there is nothing but the lock."""
    if made and made[0].is_dir() and os.listdir(made[0]) == [LOCK]:
        (made[0] / LOCK).unlink()
        with suppress(OSError):  # one of them is in use by now
            for folder in made:
                folder.rmdir()


def remove_half_written(folder: Path):
    """Remove what is left under temporary names below `folder`, but not in folders that have a lock of their own."""
    for root, folders, files in os.walk(folder):
        half_written = [name for name in folders + files if is_temporary(name)]
        for path in (Path(root, name) for name in half_written):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        locked = [name for name in folders if Path(root, name, LOCK).exists()]
        folders[:] = set(folders) - {*half_written, *locked}
