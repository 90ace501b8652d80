"""Errors that are shown to the user as one sentence."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A caller's mistake: a bad setting, file or folder. The command ends with exit code 2."""


class InUseError(InputError):
    """A folder that another process is using."""


class ArchiveError(Exception):
    """A zoo that is damaged or incomplete. The command ends with exit code 1."""


class WorkError(Exception):
    """Work that failed through no fault of its input. The command ends with exit code 1."""


class TimeLimitError(WorkError, TimeoutError):
    """Work that exceeded its time limit. Prefect shows a TimeoutError as the state TimedOut."""


class DivergenceError(WorkError):
    """The training loss is no longer finite."""


def reason(error: Exception) -> str:
    """The cause in one line: the last line of a traceback, else the first line of the message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    has_traceback = any(line.startswith('  File "') for line in lines)
    return lines[-1 if has_traceback else 0].strip()


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Text that ends a sentence about an unknown name: "; did you mean" the closest known one?

    `prefix` goes before the known name. Empty if no known name is close.
    """
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""
