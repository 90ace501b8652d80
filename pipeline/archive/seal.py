"""`statistics.json`: the mark of a finished zoo."""

from pydantic import FiniteFloat

from pipeline.config import Frozen

SEAL = "statistics.json"
"""Written last: a zoo that has it is finished."""


class Moments(Frozen):
    mean: FiniteFloat
    std: FiniteFloat


class Seal(Frozen):
    """The content of statistics.json."""

    split: str
    num_members: int
    """Members over which the statistics were computed."""
    tensors: dict[str, Moments]
    zoo: str
    """sha256 of zoo.json."""
    catalog: dict[str, str]
    """sha256 of the catalog part of each shard."""
