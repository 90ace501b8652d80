"""Processes of this user by what they carry or write, and their end. Linux only: elsewhere none are found."""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

SECONDS = 10.0
"""How long to go on killing: a process may start others, or hang in the kernel."""


def marked(variable: str, value: str) -> list[int]:
    """Ids of the living processes, but this one, that were started with `variable=value`.

    One that shows a long title in its place, as Ray's agents do, has no environment any more: see `writers`.
    """
    wanted, found = f"{variable}={value}".encode(), []
    for entry in others():
        with suppress(OSError):  # gone meanwhile, or another user's
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def writers(folder: Path) -> list[int]:
    """Ids of the living processes, but this one, that have a file below a folder open for writing."""
    found = []
    for entry in others():
        with suppress(OSError):
            if any(writes(entry, name, folder) for name in os.listdir(entry / "fd")):
                found.append(int(entry.name))
    return found


def writes(process: Path, descriptor: str, folder: Path) -> bool:
    with suppress(OSError):  # closed meanwhile
        if os.readlink(process / "fd" / descriptor).startswith(f"{folder}/"):
            _, flags, *_ = (process / "fdinfo" / descriptor).read_text().splitlines()
            return bool(int(flags.split()[1], 8) & os.O_ACCMODE)
    return False


def others() -> Iterator[Path]:
    """What the kernel knows of each process but this one."""
    return (entry for entry in Path("/proc").glob("[0-9]*") if int(entry.name) != os.getpid())


def end_all(find: Callable[[], Collection[int]]):
    """Kill the processes that `find` finds, and those that they are just starting."""
    deadline = time.monotonic() + SECONDS
    while (processes := find()) and time.monotonic() < deadline:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)
