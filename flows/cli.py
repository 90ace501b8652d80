"""The command `dwszoo`. Heavy packages load in the commands that need them, so that `--help` answers at once."""

import errno
import os
import re
import signal
import stat
import sys
from contextlib import suppress

from cluster.address import RequestError
from flows.home import usable_home
from flows.interruption import SENTENCE, exit_code, handle_signals, leave, signal_received
from flows.parser import parser
from flows.streams import prepare_streams, reader_is_gone
from pipeline.errors import ArchiveError, InputError, WorkError

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""Ray writes them into its errors, whoever reads them."""
SENTENCES = (InputError, RequestError, ArchiveError, WorkError, OSError)
"""Errors whose message is meant for whoever called the command."""
CLOSED_PIPE = 128 + signal.SIGPIPE
"""What a shell shows of a command that nobody reads from any more, as in `dwszoo zoo info DIR | head -1`."""


def command() -> None:
    prepare_streams()
    handle_signals()
    os.umask(os.umask(0) | stat.S_IWOTH)  # nobody else writes what a command makes
    try:
        code = main()
    except SystemExit as end:  # of argparse, or of a benchmark, which may give a sentence
        code = complain(end.code, 1) if isinstance(end.code, str) else end.code or 0
    try:
        sys.stdout.flush()
    except OSError as error:
        code = CLOSED_PIPE if reader_is_gone() else complain(sentence(error), 1)
    leave(code)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0; 1 for a failure of the work; 2 for a caller's mistake; 3 where all was done but members failed; 130 for Ctrl-C, 143
    for SIGTERM, 129 for SIGHUP; 141 where nobody reads what it prints any more.
    """
    options = parser().parse_args(arguments)
    try:
        with usable_home():
            return options.command(options) or 0
    except BaseException as error:  # noqa: BLE001 - all but what a signal caused is raised again or told
        # What follows a signal follows from it: Ray fails where the same signal ended its processes.
        if not (signal_received() or isinstance(error, KeyboardInterrupt)):
            return failure(error, options.debug)
    with suppress(OSError):
        sys.stderr.write(SENTENCE)
    return exit_code()


def failure(error: BaseException, debug: bool) -> int:
    """Say in a sentence why a command failed; returns its exit code. Raises anything else again."""
    if isinstance(error, BrokenPipeError) and reader_is_gone():
        return CLOSED_PIPE
    if debug or not isinstance(error, SENTENCES):
        raise error
    return complain(sentence(error), 2 if isinstance(error, InputError | RequestError) else 1)


def complain(message: str, code: int) -> int:
    message = COLOURS.sub("", message)
    with suppress(OSError):  # nobody reads standard error, or its disk is full
        sys.stderr.write(f"dwszoo: {message}\n")
    return code


def sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full (writing {error.filename or 'a file'}): make room and run the same command again to go on"
    return str(error)


if __name__ == "__main__":
    command()
