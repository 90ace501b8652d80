"""A command runs in a child process, so that it ends with a sentence however that process ends.

Ray's compiled code ends the process it is in when it misses Ray's own processes, and the kernel
does when memory is short: neither lets Python say anything.
"""

import atexit
import ctypes
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

WORD = b"."
ends: list[int] = []
"""Where a child says that it ends by itself; empty until `supervise`."""
ERROR = re.compile(rb"^\[[^]]* [EC] [^]]*\] (?!logging\.cc)(.+?)(?:\. |$)", re.MULTILINE)
"""The first sentence of an error in the log of Ray's compiled code, which is no line of a trace."""
MOST_BYTES = 1_000_000
KILL_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""


def supervise(signals: Sequence[int]):
    """Return in a child process; this one passes `signals` on to it and ends as it does.

    If the child does not say that it ends, the exit code is 1, after a sentence with the last error
    that Ray's compiled code wrote to standard error, where nothing that such code writes is shown.
    If this process is killed, the child is too (on Linux).
    """
    reader, writer = os.pipe()
    native, parent = file_in_memory(), os.getpid()
    if child := os.fork():
        os.close(writer)
        for signum in signals:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, lambda signum, _: os.kill(child, signum))
        _, status = os.waitpid(child, 0)
        os._exit(code_of(os.waitstatus_to_exitcode(status), reader, native))
    os.close(reader)
    ends.append(writer)
    atexit.register(last_word)
    end_with(parent)
    divert(native)


def last_word():
    """Say that this process now ends by itself."""
    while ends:
        with suppress(OSError):
            os.write(ends.pop(), WORD)


def file_in_memory() -> int:
    """The descriptor of a file that needs no disk; it discards what is written, except on Linux."""
    return os.memfd_create("stderr") if sys.platform == "linux" else os.open(os.devnull, os.O_RDWR)


def code_of(code: int, reader: int, native: int) -> int:
    """The exit code of the command whose child has ended with `code`."""
    os.set_blocking(reader, False)
    with suppress(BlockingIOError):  # a process of the child has the other end too
        if os.read(reader, 1) == WORD:
            return code if code >= 0 else 128 - code
    errors = ERROR.findall(os.pread(native, MOST_BYTES, 0))
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    what = f"{how}: {errors[-1].decode(errors='replace')}" if errors else how
    with suppress(OSError):
        sys.stderr.write(
            f"dwszoo: the process of this command ended ({what}): run the same command again to "
            "continue\n"
        )
        sys.stderr.flush()
    return 1


def end_with(parent: int):
    """From now on, this process is killed when its parent ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(KILL_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended before
            os._exit(1)


def divert(native: int):
    """From now on, only Python writes to standard error; compiled code writes to a file."""
    shown = sys.stderr
    sys.stderr = open(  # noqa: SIM115
        os.dup(shown.fileno()), "w", buffering=1, encoding=shown.encoding, errors=shown.errors
    )
    os.dup2(native, 2)
