"""The kinds of zoo, one file each. A kind plans, describes and fits the members of its zoos."""

from pipeline.config import AnyZooConfig
from pipeline.signals import Signals
from pipeline.zoos.classifiers import Classifiers
from pipeline.zoos.inrs import Inrs
from pipeline.zoos.kind import ZooKind

__all__ = ["KINDS", "ZooKind", "kind_of"]

KINDS: dict[str, type[ZooKind]] = {"inrs": Inrs, "classifiers": Classifiers}
"""By the `kind` of their configuration."""


def kind_of(config: AnyZooConfig, signals: Signals) -> ZooKind:
    """The kind that makes the zoo of a configuration from its signals."""
    return KINDS[config.kind](config, signals)
