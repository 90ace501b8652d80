"""Ends the processes and removes the temporary folders that a killed command would leave behind.

Ray's agents and Prefect's temporary server survive SIGKILL of their parent. A small watcher process
waits for the parent's end and then kills its descendants, which carry a mark in their environment.
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
    """From now on, end all processes that this one starts shortly after it ends. Linux only."""
    if own_mark() or not Path("/proc/self/environ").exists():
        return
    mark = f"{os.getpid()}-{uuid.uuid4().hex}"
    # Isolated, with the path of this process: the working directory may have a file of any name.
    code = (
        f"import sys; sys.path[:] = {sys.path}; from cluster.orphans import watch; "
        f"watch({os.getpid()}, {mark!r})"
    )
    subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        # Without the mark of a parent, whose watcher would end this one before it has cleaned up.
        env={name: value for name, value in os.environ.items() if name != MARK},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.environ[MARK] = mark


def own_mark() -> str | None:
    """The mark of this process's descendants; a mark inherited from its parent does not count."""
    mark = os.environ.get(MARK, "")
    return mark if mark.startswith(f"{os.getpid()}-") else None


def end_children():
    """Kill all processes that this one has started since `end_children_with_me`."""
    if mark := own_mark():
        end_all(lambda: marked(MARK, mark))


def watch(parent: int, mark: str):
    """Wait for the end of the parent and clean up; signals that end the parent are ignored."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    end_all(lambda: marked(MARK, mark))
    remove_leftovers()
