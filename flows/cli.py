"""The command `dwszoo`. Commands import heavy packages themselves, so that `--help` is fast."""

import errno
import os
import re
import signal
import stat
import sys
from contextlib import suppress

from cluster.address import RequestError
from flows.home import usable_home
from flows.interruption import (
    SENTENCE,
    SIGNALS,
    exit_code,
    handle_signals,
    leave,
    signal_received,
)
from flows.parser import parser
from flows.streams import prepare_streams, reader_is_gone
from flows.supervision import supervise
from pipeline.errors import ArchiveError, InputError, WorkError

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""Terminal colours, which Ray always writes into its errors."""
SENTENCES = (InputError, RequestError, ArchiveError, WorkError, OSError)
"""Errors whose message is meant for the caller of the command."""
CLOSED_PIPE = 128 + signal.SIGPIPE
"""Exit code of a command whose output nobody reads any more, as in `dwszoo zoo info DIR | head
-1`."""


def command() -> None:
    prepare_streams()
    supervise(SIGNALS)
    handle_signals()
    os.umask(os.umask(0) | stat.S_IWOTH)  # others cannot write to what a command makes
    try:
        code = main()
    except SystemExit as end:  # from argparse, or from a benchmark, perhaps with a message
        code = complain(end.code, 1) if isinstance(end.code, str) else end.code or 0
    try:
        sys.stdout.flush()
    except OSError as error:
        code = CLOSED_PIPE if reader_is_gone() else complain(sentence(error), 1)
    leave(code)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: done; 1: the work failed; 2: a mistake of the caller; 3: done, but members failed; 130, 143,
    129: ended by Ctrl-C, SIGTERM or SIGHUP; 141: nobody reads its output any more.
    """
    options = parser().parse_args(arguments)
    try:
        with usable_home():
            return options.command(options) or 0
    except BaseException as error:  # noqa: BLE001 - reported or raised again
        # After a signal any error is due to it: Ray fails if the signal ended its processes too.
        if not (signal_received() or isinstance(error, KeyboardInterrupt)):
            return failure(error, options.debug)
    with suppress(OSError):
        sys.stderr.write(SENTENCE)
    return exit_code()


def failure(error: BaseException, debug: bool) -> int:
    """Report in a sentence why a command failed; returns the exit code. Reraises other errors."""
    if isinstance(error, BrokenPipeError) and reader_is_gone():
        return CLOSED_PIPE
    if debug or not isinstance(error, SENTENCES):
        raise error
    return complain(sentence(error), 2 if isinstance(error, InputError | RequestError) else 1)


def complain(message: str, code: int) -> int:
    message = COLOURS.sub("", message)
    with suppress(OSError):  # standard error is closed, or its disk is full
        sys.stderr.write(f"dwszoo: {message}\n")
    return code


def sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            f"the disk is full (writing {error.filename or 'a file'}): "
            "make room and run the same command again to continue"
        )
    return str(error)


if __name__ == "__main__":
    command()
