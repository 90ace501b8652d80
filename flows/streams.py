"""Standard output and error, treated as by Unix commands."""

import codecs
import io
import os
import select
import sys


def prepare_streams():
    """Discard output to streams that the caller has closed, and make every file name printable."""
    # Open until the process ends.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    codecs.register_error("as_is_or_escaped", as_is_or_escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook has others
            stream.reconfigure(errors="as_is_or_escaped")


def as_is_or_escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler: undecodable bytes of names are written unchanged, characters that the
    encoding lacks are escaped as in Python."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


def reader_is_gone() -> bool:
    """Whether standard output or error is a pipe whose other end is closed."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream, 0)  # errors are reported without being asked for
    return any(event & select.POLLERR for _, event in poll.poll(0))
