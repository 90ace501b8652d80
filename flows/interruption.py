"""Clean ends by Ctrl-C, SIGTERM (from batch systems) and SIGHUP (from closed terminals)."""

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from cluster.orphans import end_children
from flows.supervision import last_word

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SENTENCE = "dwszoo: interrupted: run the same command again to continue\n"
SECONDS = 10.0
"""Time limit of a clean end. Batch systems and Kubernetes send SIGKILL after 30 seconds."""

delivered: list[socket.socket] = []
"""A socket with the numbers of delivered signals, whichever handler took them; empty until
`handle_signals`."""
received: list[int] = []
"""The signal that ended the command. The exception does not tell, as libraries convert it: Ray
raises its own KeyboardInterrupt."""


def handle_signals():
    """From now on a signal raises KeyboardInterrupt, once, and the process ends in `SECONDS`.

    A signal that is ignored, for instance by `nohup`, stays ignored.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    delivered.append(reader)
    threading.Thread(target=end_in_time, args=(reader, writer), daemon=True).start()
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, interrupt)


def interrupt(signum: int, frame: FrameType | None):
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    received.append(signum)
    raise KeyboardInterrupt


def signal_received() -> int | None:
    """The signal that ended the command, if any, even if another handler took it.

    Prefect has its own handler for SIGTERM, and Ray may turn its exception into a SystemError.
    """
    if received or not delivered:
        return received[0] if received else None
    with suppress(BlockingIOError):
        bytes_of_signals = delivered[0].recv(64, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return next((signum for signum in bytes_of_signals if signum in SIGNALS), None)
    return None


def exit_code() -> int:
    """The exit code of an interrupted command: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (signal_received() or signal.SIGINT)


def end_in_time(reader: socket.socket, writer: socket.socket):
    """End the process if it has not ended `SECONDS` after a signal; runs in a thread.

    Python runs handlers only in the main thread, which may be busy in compiled code.
    """
    while (signum := reader.recv(1, socket.MSG_PEEK)[0]) not in SIGNALS:
        reader.recv(1)  # drop other signals; ours stays for `signal_received`
    time.sleep(SECONDS)
    with suppress(OSError):
        sys.stderr.write(SENTENCE)
    leave(128 + signum)


def leave(code: int):
    """End this process and its children at once.

    Ray's and Prefect's threads may still be running: shutting down the interpreter under them can
    crash, or wait for a server that is gone.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it
            stream.flush()
    end_children()
    last_word()
    os._exit(code)
