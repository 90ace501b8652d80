"""Temporary folders that end with the process that made them, or with the next one where it was killed."""

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
"""Bytes in a folder's path. Ray's sockets lie 68 deeper, and the path of a UNIX socket has at most 107."""
SECONDS = 5.0
"""How long processes that are about to end may go on writing into a folder."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new temporary folder for the length of the block, private, and with a path short enough for Ray's sockets.

    What processes that were killed left behind is removed first. Raises OSError where no folder can be made.
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
    """Remove the folders of this user that no running process holds, and end what writes into them all the same."""
    for folder in (folder for place in places() for folder in place.glob(f"{PREFIX}*")):
        with suppress(OSError):  # held, another user's, or gone meanwhile
            lock = hold(folder)
            end_all(partial(writers, folder))
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def places() -> list[Path]:
    """Where folders may lie: where the user has temporary files, or where paths are shorter."""
    longest = LONGEST - len(f"/{PREFIX}12345678")
    candidates = dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"])
    return [Path(place) for place in candidates if len(os.fsencode(place)) <= longest]


def make_folder() -> tuple[Path, int]:
    """A new folder with the lock that keeps it."""
    problem = None
    for place in places():
        try:
            return make_folder_in(place)
        except OSError as error:  # read-only, full or missing
            problem = error
    raise OSError(
        f"cannot make a temporary folder in {', '.join(map(str, places()))} ({problem.strerror}): "
        f"set TMPDIR to a folder that can be written, on a path of at most {LONGEST - 16} bytes"
    ) from problem


def make_folder_in(place: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        try:
            return folder, hold(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process took it for a leftover before it was held
        except OSError:
            # The file system has no locks: nobody can take the folder for a leftover, nor remove it if it becomes one.
            return folder, os.open(folder, os.O_RDONLY)


def hold(folder: Path) -> int:
    """Lock a folder until the descriptor that this returns is closed, at the latest when this process ends.

    Raises BlockingIOError where another process holds it, FileNotFoundError where it is gone, PermissionError where it
    is another user's, OSError where the file system has no locks.
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
