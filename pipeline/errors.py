"""The errors that reach a user as one sentence."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A caller's mistake: a bad setting, file or folder. The command ends with exit code 2."""


class InUseError(InputError):
    """A folder that another process works in."""


class ArchiveError(Exception):
    """A zoo that is damaged or incomplete. The command ends with exit code 1."""


class WorkError(Exception):
    """Work that failed through no fault of its input. The command ends with exit code 1."""


class DivergenceError(WorkError):
    """Training whose loss is no longer finite."""


def reason(error: Exception) -> str:
    """Why something failed, in one line: the end of a traceback, or else the first line, after which comes advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    has_traceback = any(line.startswith('  File "') for line in lines)
    return lines[-1 if has_traceback else 0].strip()


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence about an unknown name: the known one that is most like it, if any is, after `prefix`."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""
