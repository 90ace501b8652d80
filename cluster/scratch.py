"""Temporary folders that are removed with their process or, if that is killed, by the next one."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from cluster.processes import end_all, writers

PREFIX = "dwszoo-"
LONGEST = 39
"""Bytes in a folder's path. Ray adds 68 for its sockets, and a UNIX socket's path has at most
107."""
SECONDS = 5.0
"""How long processes that are about to end may keep writing to a folder."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A private temporary folder for the block, with a path short enough for Ray's sockets.

    Leftovers of killed processes are removed first. Raises OSError if no folder can be created.
    """
    remove_leftovers()
    folder, lock = make_folder()
    try:
        yield folder
    finally:
        deadline = time.monotonic() + SECONDS
        while folder.exists() and time.monotonic() < deadline:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_leftovers():
    """Remove this user's folders that no running process holds, and kill processes that still write
    to them."""
    for folder in (folder for place in places() for folder in place.glob(f"{PREFIX}*")):
        with suppress(OSError):  # held, another user's, or already gone
            lock = hold(folder)
            end_all(partial(writers, folder))
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def places() -> list[Path]:
    """Where folders can be created: the user's temporary folder, or others with shorter paths."""
    longest = LONGEST - len(f"/{PREFIX}12345678")
    candidates = dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"])
    return [Path(place) for place in candidates if len(os.fsencode(place)) <= longest]


def make_folder() -> tuple[Path, int]:
    """A new folder, and the descriptor of the lock that keeps it."""
    problem = OSError("no place")
    for place in places():
        try:
            return make_folder_in(place)
        except OSError as error:  # read-only, full or missing
            problem = error
    raise OSError(
        f"cannot make a temporary folder in {', '.join(map(str, places()))} ({problem.strerror}): "
        f"set TMPDIR to a writable folder with a path of at most {LONGEST - 16} bytes"
    ) from problem


def make_folder_in(place: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        try:
            return folder, hold(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process removed it as a leftover before it was locked
        except OSError:
            # The file system has no locks: the folder is never treated as a leftover.
            return folder, os.open(folder, os.O_RDONLY)


def hold(folder: Path) -> int:
    """Lock a folder until the returned descriptor is closed or this process ends.

    Raises BlockingIOError if another process holds it, FileNotFoundError if it is gone,
    PermissionError if it is another user's, and OSError if the file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(descriptor)
        if not os.path.samestat(status, os.lstat(folder)):
            raise FileNotFoundError(f"{folder} is another folder by now")
        if status.st_uid != os.getuid():
            raise PermissionError(f"{folder} is another user's")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
