"""How long work reports its progress."""

from collections.abc import Callable

Advance = Callable[[int], None]
"""Called with the number of members done since the last call."""


def no_progress(count: int):
    """Progress is reported to nobody."""
