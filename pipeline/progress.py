"""Progress callbacks."""

from collections.abc import Callable

Advance = Callable[[int], None]
"""A callback: takes the number of members done since the last call."""


def no_progress(count: int):
    """Ignore progress."""
