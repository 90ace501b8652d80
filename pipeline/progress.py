"""How work that takes long tells how far it is."""

from collections.abc import Callable

Advance = Callable[[int], None]
"""Called with the number of members done since the last call."""


def untold(count: int):
    """Nobody listens."""
