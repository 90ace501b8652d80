"""Finds and kills processes by their environment or open files. Finds none except on Linux."""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

SECONDS = 10.0
"""How long to keep killing: a process may start others, or hang in the kernel."""


def marked(variable: str, value: str) -> list[int]:
    """Ids of the other running processes that were started with `variable=value`.

    Processes that overwrite their environment with a long title, like Ray's agents, are not found:
    see `writers`.
    """
    wanted, found = f"{variable}={value}".encode(), []
    for entry in others():
        with suppress(OSError):  # ended meanwhile, or another user's
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def writers(folder: Path) -> list[int]:
    """Ids of the other running processes that have a file below a folder open for writing."""
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
    """The /proc folder of every process except this one."""
    return (entry for entry in Path("/proc").glob("[0-9]*") if int(entry.name) != os.getpid())


def end_all(find: Callable[[], Collection[int]]):
    """Kill the processes that `find` returns until it returns none, as they may start others, and
    wait until they have released their locks."""
    deadline, killed = time.monotonic() + SECONDS, set[int]()
    while time.monotonic() < deadline:
        found = find()
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        killed.update(found)
        if not any(map(is_running, killed)):
            return
        time.sleep(0.02)


def is_running(process: int) -> bool:
    """False once it has closed its files, though its parent may not have waited for it yet."""
    try:
        _, _, state = Path(f"/proc/{process}/stat").read_text().rpartition(")")
    except OSError:
        return False
    return state.split()[0] not in "ZX"
