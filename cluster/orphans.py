"""Processes that a killed command would leave behind end with it, and so do its temporary folders.

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

from cluster.processes import end_all, marked
from cluster.scratch import remove_leftovers

MARK = "DWSZOO_SESSION"
POLL_SECONDS = 0.2


def end_children_with_me():
    """From now on the processes that this one starts do not outlive it by more than a moment. Linux only."""
    if own_mark() or not Path("/proc/self/environ").exists():
        return
    mark = f"{os.getpid()}-{uuid.uuid4().hex}"
    # Isolated, and with the path of this process: a file of any name may lie in the working directory.
    code = f"import sys; sys.path[:] = {sys.path}; from cluster.orphans import watch; watch({os.getpid()}, {mark!r})"
    subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.environ[MARK] = mark


def own_mark() -> str | None:
    """The mark of what this process starts; one that it inherited is of the processes beside it."""
    mark = os.environ.get(MARK, "")
    return mark if mark.startswith(f"{os.getpid()}-") else None


def end_children():
    """End at once whatever this process has started since `end_children_with_me`."""
    if mark := own_mark():
        end_all(lambda: marked(MARK, mark))


def watch(parent: int, mark: str):
    """Wait for the end of the parent; what ends it does not end this process."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    end_all(lambda: marked(MARK, mark))
    remove_leftovers()
