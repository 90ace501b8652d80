"""Processes that a killed command would leave behind end with it.

Ray's agents and Prefect's temporary server outlive a parent that got SIGKILL. A small watcher process waits for that and
ends whatever the command started: its descendants carry a mark in their environment.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

MARK = "DWSZOO_SESSION"
POLL_SECONDS = 0.5
GRACE_SECONDS = 5.0
"""What an orderly exit may take to end its processes itself."""


def end_children_with_me():
    """From now on the processes that this one starts do not outlive it by more than a few seconds. Linux only."""
    mine = f"{os.getpid()}-"
    if os.environ.get(MARK, "").startswith(mine) or not Path("/proc/self/environ").exists():
        return
    mark = mine + uuid.uuid4().hex
    subprocess.Popen(
        [sys.executable, "-I", __file__, str(os.getpid()), mark],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.environ[MARK] = mark


def marked(mark: str) -> list[int]:
    """Ids of the processes of this user that carry `mark`."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue  # gone meanwhile, or another user's
    return found


def watch(parent: int, mark: str):
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    deadline = time.monotonic() + GRACE_SECONDS
    while (processes := marked(mark)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for process in processes:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2])
