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

received: list[int] = []
"""The signal that ended the command. Libraries turn one exception into another: Ray raises a KeyboardInterrupt of its own."""


def handle_signals():
    """From now on the signals raise KeyboardInterrupt, once; where that has no effect the process ends after `SECONDS`.

    A signal that is ignored, as `nohup` has it, stays ignored.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=end_in_time, args=(reader, writer), daemon=True).start()
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, interrupt)


def interrupt(signum: int, frame: FrameType | None):
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    received.append(signum)
    raise KeyboardInterrupt


def exit_code() -> int:
    """Of a command that was interrupted, as shells have it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (received[0] if received else signal.SIGINT)


def end_in_time(reader: socket.socket, writer: socket.socket):
    """Python runs handlers in the main thread alone, which may be waiting in compiled code; this thread learns of them."""
    while (signum := reader.recv(1)[0]) not in SIGNALS:
        continue
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
