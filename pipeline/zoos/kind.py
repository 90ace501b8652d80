"""What a kind of zoo is."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

from dwsnet.weight_space import WeightSpace
from pipeline.archive.growth import Growth
from pipeline.archive.plan import ShardPlan
from pipeline.archive.shard import Members
from pipeline.config import AnyZooConfig
from pipeline.decode import DecodeContract
from pipeline.progress import Advance
from pipeline.signals import Signals


class ZooKind(Protocol):
    """What makes one zoo: a configuration and its signals, from the plan to the members of each shard."""

    members: ClassVar[str]
    """What the members are called."""
    quality: ClassVar[str]
    """Catalog column that says how good each member is."""
    config: AnyZooConfig
    signals: Signals

    def __init__(self, config: AnyZooConfig, signals: Signals): ...

    @staticmethod
    def in_words(quality: float) -> str:
        """A mean of the column `quality`, for people."""

    @property
    def space(self) -> WeightSpace:
        """Of every member."""

    @property
    def facts(self) -> dict[str, str]:
        """Arrow type of each catalog column with a fact of the members' signals."""

    def decode_contract(self) -> DecodeContract:
        """How the members are run."""

    def plan_shards(self, grown: Sequence[Growth] = ()) -> list[ShardPlan]:
        """Every shard of the zoo, those first that it had before it grew, each time.

        Raises InputError where a split would be empty.
        """

    def class_counts(self, shards: list[ShardPlan]) -> dict[str, tuple[int, ...]] | None:
        """How many members of each class each split will have; None where members are of no class."""

    def prepare(self, device: str):
        """Called once, before workers fit."""

    def fit_members(self, shard: ShardPlan, device: str, advance: Advance) -> Members:
        """The members of a shard, with the columns that `pipeline.archive.schemas` has for the kind.

        Calls `advance` with how many more are done.
        """

    def fit_seconds(self, shards: Sequence[ShardPlan], device: str, budget: float) -> float:
        """How many seconds of one worker `fit_members` takes for all of `shards`, at most.

        Measured on a part of the first that takes about `budget` seconds.
        """

    def small(self) -> "ZooKind":
        """Of the same networks, but of few signals or runs and hardly fitted: what is quick to try."""
