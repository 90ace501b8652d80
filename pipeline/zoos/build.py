"""Building a zoo: plan and fit shard by shard; `pipeline.archive.write` commits and seals."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.compute as pc
import torch

from pipeline.archive.growth import Growth, identity_of
from pipeline.archive.plan import ShardPlan
from pipeline.archive.record import SCHEMA_VERSION, ShardRecord, SignalsRecord, ZooRecord
from pipeline.archive.schemas import fitted_schema
from pipeline.archive.write import claim_zoo, commit_shard
from pipeline.config import AnyZooConfig, fingerprint
from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.progress import Advance, no_progress
from pipeline.signals import Signals, check_signals, load_signals, operated
from pipeline.zoos import ZooKind, kind_of


@dataclass(frozen=True)
class ZooPlan:
    record: ZooRecord
    signals: Signals
    shards: list[ShardPlan]

    @property
    def kind(self) -> ZooKind:
        return kind_of(self.record.fitted, self.signals)


@dataclass(frozen=True)
class ShardSummary:
    name: str
    num_members: int
    num_failed: int
    quality_sum: float
    """Sum of the kind's column `quality` over the members that did not fail."""


def plan_zoo(config: AnyZooConfig, folder: Location, signals: Signals | None = None) -> ZooPlan:
    """`plan_members`, and write zoo.json.

    Raises InputError if `folder` holds a zoo of another configuration, saying which fields differ.
    """
    plan = plan_members(config, signals)
    claim_zoo(folder, plan.record)
    return plan


def plan_members(config: AnyZooConfig, signals: Signals | None = None) -> ZooPlan:
    """Load the signals, unless given, and plan every member; nothing is written."""
    if signals is None:
        signals = load_signals(config.signals)
    elif config.signals.is_function:
        signals = check_signals(config.signals.source, signals)
        signals = operated(signals, config.signals.operation)
    else:
        raise InputError(
            f"signals.source must name the function that made these signals, as module:function, "
            f"got {config.signals.source!r}"
        )
    return plan_signals(config, signals)


def plan_signals(config: AnyZooConfig, signals: Signals, grown: Sequence[Growth] = ()) -> ZooPlan:
    """The plan of a zoo with this history of growth, from its signals in the order of the zoo."""
    kind = kind_of(config, signals)
    check_facts(kind)
    shards = kind.plan_shards(grown)
    return ZooPlan(make_record(kind, shards, grown), signals, shards)


def check_facts(kind: ZooKind):
    """Raises InputError if a fact cannot be a column of the catalog."""
    try:
        fitted_schema(kind.config.kind, kind.facts)
    except ValueError as error:
        raise InputError(
            f"the facts of {kind.signals.name} cannot be columns of the catalog: {error}"
        ) from error


def make_record(kind: ZooKind, shards: list[ShardPlan], grown: Sequence[Growth] = ()) -> ZooRecord:
    config, signals = kind.config, kind.signals
    if config.signals.path is not None:  # later commands may be run elsewhere
        config = config.model_copy(
            update={
                "signals": config.signals.model_copy(update={"path": config.signals.path.resolve()})
            }
        )
    digest = signals.digest()
    return ZooRecord(
        format="dwszoo",
        schema_version=SCHEMA_VERSION,
        fingerprint=fingerprint(identity_of(config, digest, grown)),
        config=config,
        signals=SignalsRecord(
            name=signals.name,
            num_signals=len(signals),
            digest=digest,
            grid=signals.grid,
            num_channels=signals.num_channels,
            class_names=signals.class_names,
            unreadable={signals.called(i): reason for i, reason in signals.failures.items()},
        ),
        tensors={spec.name: spec.shape for spec in kind.space.tensors},
        decode=kind.decode_contract(),
        shards=tuple(
            ShardRecord(name=shard.name, split=shard.split, num_members=len(shard.source_index))
            for shard in shards
        ),
        classes=kind.class_counts(shards),
        facts=kind.facts,
        grown=tuple(grown),
    )


def fit_shard(
    config: AnyZooConfig,
    folder: Location,
    signals: Signals,
    shard: ShardPlan,
    device: str = "cpu",
    advance: Advance = no_progress,
) -> ShardSummary:
    """Fit the members of a shard on a torch device, and commit it.

    The result depends on config, signals and shard alone: fitting again gives the same bytes.
    """
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    kind = kind_of(config, signals)
    members = kind.fit_members(shard, device, advance)
    schema = fitted_schema(config.kind, kind.facts)
    commit_shard(folder, shard.name, members, kind.space, config.block_size, schema)
    quality = pc.sum(members.columns[kind.quality]).as_py()
    return ShardSummary(shard.name, len(members.ok), int((~members.ok).sum()), quality or 0.0)
