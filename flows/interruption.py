"""Ctrl-C, SIGTERM and SIGHUP end a command alike, wherever it is: batch systems send the second, closed terminals the third."""

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from cluster.orphans import end_children

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SENTENCE = "dwszoo: interrupted: run the same command again to go on\n"
SECONDS = 10.0
"""How long an orderly end may take. Batch systems and Kubernetes send SIGKILL after 30 seconds."""

delivered: list[socket.socket] = []
"""Where the numbers of delivered signals can be read, whichever handler took them; empty until `handle_signals`."""
received: list[int] = []
"""The signal that ended the command. Libraries turn one exception into another: Ray raises a KeyboardInterrupt of its own."""


def handle_signals():
    """From now on the signals raise KeyboardInterrupt, once; where that has no effect the process ends after `SECONDS`.

    A signal that is ignored, as `nohup` has it, stays ignored.
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
    """The signal that ended the command, if one did, even if another handler took it.

    Prefect has a handler of its own for SIGTERM, and Ray may turn what that raises into a SystemError.
    """
    if received or not delivered:
        return received[0] if received else None
    with suppress(BlockingIOError):
        bytes_of_signals = delivered[0].recv(64, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return next((signum for signum in bytes_of_signals if signum in SIGNALS), None)
    return None


def exit_code() -> int:
    """Of a command that was interrupted, as shells have it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (signal_received() or signal.SIGINT)


def end_in_time(reader: socket.socket, writer: socket.socket):
    """Python runs handlers in the main thread alone, which may be waiting in compiled code; this thread learns of them."""
    while (signum := reader.recv(1, socket.MSG_PEEK)[0]) not in SIGNALS:
        reader.recv(1)  # those of other kinds are taken out, this one stays for `signal_received`
    time.sleep(SECONDS)
    with suppress(OSError):
        sys.stderr.write(SENTENCE)
    leave(128 + signum)


def leave(code: int):
    """End this process and what it has started at once.

    Ray's and Prefect's threads may be anywhere: tearing the interpreter down under them can crash, or wait for a server
    that is gone.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it
            stream.flush()
    end_children()
    os._exit(code)
