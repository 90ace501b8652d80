"""Files of archives and runs, written atomically, on this machine and in object stores."""

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
"""Tokens of json.dumps that are not JSON, and strings, which may contain them."""
LOCK = ".lock"
"""The file that is locked while a process holds its folder."""

FILES = (".csv", ".gz", ".json", ".npz", ".parquet", ".png", ".pt", ".pth", ".tar", ".tgz", ".zip")
"""Extensions of files, which no folder may have."""

logger = logging.getLogger(__name__)


def write_atomic(path: Location, data: bytes):
    """Write to a temporary name, flush to disk, rename: an error or kill leaves `path` as it was.

    An object store behaves this way already: an upload that does not finish is never visible.
    """
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # a short name, whatever that of path
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_kind(path: Path, *kinds: str) -> str:
    """The extension of a file to be written, which is its format: one of `kinds`, such as 'png'.

    Raises InputError if it is another, or if no such file can be written.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in kinds:
        raise InputError(
            f"cannot write {path}: expected a name that ends in "
            f"{' or '.join(f'.{kind}' for kind in kinds)}"
        )
    if path.is_dir() or not path.parent.is_dir():
        expected = "a file" if path.is_dir() else f"a folder {path.parent}"
        found = "a folder" if path.is_dir() else "none"
        raise InputError(f"cannot write {path}: expected {expected}, found {found}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: expected that {path.parent} can be written to")
    return kind


def require_folder_name(path: Location):
    """Raises InputError if a folder would have the extension of a file."""
    if path.name.lower().endswith(FILES):
        raise InputError(
            f"{path} would be a folder but is named like a file: choose an --out without the "
            "extension"
        )


def read_array(path: Location, size: int, span: slice = slice(None)) -> np.ndarray:
    """The bytes of a file of `size` bytes, or a span of them, as a uint8 copy in memory.

    Raises ValueError if the file has another size or does not contain the span.

    The file is not memory-mapped: truncating it would kill the process, and writing to it would
    change data that was verified. NumPy puts large arrays on huge pages, so the copy is cheap.
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
    """The files in `folder` with their sizes in bytes; empty if there is no folder."""
    if isinstance(folder, Path):
        inside = folder.iterdir() if folder.is_dir() else ()
        return {file: file.stat().st_size for file in inside if file.is_file()}
    filesystem, name = folder.opened
    found = filesystem.get_file_info(FileSelector(name, allow_not_found=True))
    return {folder / info.base_name: info.size for info in found if info.is_file}


def list_folders(folder: Location) -> list[Location]:
    """The folders in `folder`; empty if there is no folder."""
    if isinstance(folder, Path):
        return [inside for inside in folder.iterdir() if inside.is_dir()] if folder.is_dir() else []
    filesystem, name = folder.opened
    found = filesystem.get_file_info(FileSelector(name, allow_not_found=True))
    return [folder / info.base_name for info in found if info.type is FileType.Directory]


def remove_folder(folder: Location):
    """Remove a folder and its contents, if it exists."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    filesystem, name = folder.opened
    filesystem.delete_dir_contents(name, missing_dir_ok=True)
    with suppress(FileNotFoundError):
        filesystem.delete_dir(name)


def opened(path: Location) -> tuple[FileSystem, str | bytes]:
    """The file system of `path` and its name there: bytes on this machine, perhaps not text."""
    return path.opened if isinstance(path, RemotePath) else (LocalFileSystem(), os.fsencode(path))


def write_json(path: Location, value: Any):
    write_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON of a value that may hold numbers that are not finite, which JSON cannot express.

    NaN becomes null; infinity becomes 1e999, which readers that use float64 parse as infinity.
    """
    words = {"NaN": "null", "Infinity": "1e999"}
    return NOT_FINITE.sub(
        lambda match: words.get(match[0], match[0]), json.dumps(value, indent=indent)
    )


def read_json(path: Location) -> Any:
    """Raises ValueError if the file is not JSON."""
    return parse_json(path.read_bytes())


def parse_json(data: bytes) -> Any:
    """Raises ValueError if `data` is not JSON."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def sweep_temporaries(folder: Location):
    """Remove temporary files of killed writers. Only for the process that holds `folder`."""
    for file in list_files(folder):
        if is_temporary(file.name):
            file.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether this is the temporary name of a file or folder that is still being written."""
    return name.startswith(".") and name.endswith(".tmp")


def sha256(data: bytes | np.ndarray) -> str:
    return hashlib.sha256(data).hexdigest()  # type: ignore[arg-type]  # a buffer, from 3.12 on


@contextmanager
def exclusive(folder: Location) -> Iterator[None]:
    """Create `folder` and lock it for this process until the block ends or the process is killed.

    Half-written files of a killed process are removed on entry, those of this one on exit, and so
    are folders that were created here and stayed empty.

    Object stores have no locks. Nor have some file systems, for which there is a warning. Two
    processes that build the same zoo there write the same bytes; if their configurations differ,
    the second one is refused because of zoo.json, unless they start at the same moment.

    Raises InUseError if another process holds the folder, InputError if it cannot be written to.
    """
    require_folder_name(folder)
    if isinstance(folder, RemotePath):
        yield
        return
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    lock = hold(folder)
    if lock is None:
        yield  # half-written files may belong to another process
        return
    try:
        remove_half_written(folder)
        yield
    finally:
        remove_half_written(folder)
        remove_unused(made)
        os.close(lock)


def hold(folder: Path) -> int | None:
    """Lock `folder` for as long as the returned descriptor is open.

    Returns None, after a warning, if the file system has no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror}): choose another --out or mend its "
            "permissions"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InUseError(
            f"{folder} is in use by another dwszoo process: wait for it or choose another folder"
        ) from None
    except OSError as error:  # NFS, Lustre and FUSE, depending on how they are mounted
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
    """Remove the folders `made`, innermost first, if the innermost holds nothing but the lock."""
    if made and made[0].is_dir() and os.listdir(made[0]) == [LOCK]:
        (made[0] / LOCK).unlink()
        with suppress(OSError):  # one of them is in use by now
            for folder in made:
                folder.rmdir()


def remove_half_written(folder: Path):
    """Remove temporary files and folders below `folder`, except in folders that have a lock."""
    for root, folders, files in os.walk(folder):
        half_written = [name for name in folders + files if is_temporary(name)]
        for path in (Path(root, name) for name in half_written):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        locked = [name for name in folders if Path(root, name, LOCK).exists()]
        folders[:] = set(folders) - {*half_written, *locked}
