"""Standard output and error, as commands of Unix treat them."""

import codecs
import os
import select
import sys


def prepare_streams():
    """What is written to a stream that the caller has closed is lost; every name of a file can be written."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    codecs.register_error("as_is_or_escaped", as_is_or_escaped)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="as_is_or_escaped")


def as_is_or_escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a name that could not be decoded as they were; characters that the encoding lacks as Python would write them."""
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
