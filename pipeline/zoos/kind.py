"""The interface of a kind of zoo."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from dwsnet.weight_space import WeightSpace
from pipeline.archive.growth import Growth
from pipeline.archive.plan import ShardPlan
from pipeline.archive.shard import Members
from pipeline.config import AnyZooConfig
from pipeline.decode import DecodeContract
from pipeline.progress import Advance
from pipeline.signals import Signals


class ZooKind(Protocol):
    """Makes a zoo from a configuration and its signals: the plan and the members of each shard."""

    members: ClassVar[str]
    """Name of the members, in the plural."""
    quality: ClassVar[str]
    """Catalog column that says how good each member is."""

    def __init__(self, config: Any, signals: Signals): ...

    @property
    def config(self) -> AnyZooConfig: ...

    @property
    def signals(self) -> Signals: ...

    @staticmethod
    def in_words(quality: float) -> str:
        """A mean of the column `quality` as text."""

    @property
    def space(self) -> WeightSpace:
        """The weight space of every member."""

    @property
    def facts(self) -> dict[str, str]:
        """Arrow type of each catalog column with a fact of the members' signals."""

    def decode_contract(self) -> DecodeContract:
        """How to run the members."""

    def plan_shards(self, grown: Sequence[Growth] = ()) -> list[ShardPlan]:
        """Every shard of the zoo; those of each growth follow the shards before it.

        Raises InputError if a split would be empty.
        """

    def class_counts(self, shards: list[ShardPlan]) -> dict[str, tuple[int, ...]] | None:
        """Planned members per class, by split; None if members have no class."""

    def prepare(self, device: str):
        """Called once, before workers fit."""

    def fit_members(self, shard: ShardPlan, device: str, advance: Advance) -> Members:
        """The members of a shard, with the kind's columns in `pipeline.archive.schemas`.

        Calls `advance` with the number of members done.
        """

    def fit_seconds(self, shards: Sequence[ShardPlan], device: str, budget: float) -> float:
        """Upper bound of the seconds that `fit_members` takes one worker for all of `shards`.

        Measured on a part of the first shard, in about `budget` seconds.
        """

    def small(self) -> "ZooKind":
        """The same networks on few signals or runs and hardly fitted, for a quick trial."""
