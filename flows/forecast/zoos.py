"""Stand-ins for a zoo that is not built yet: its plan, and a small zoo of the same networks."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.archive.record import ShardRecord
from pipeline.archive.write import claim_zoo, seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.signals import Signals
from pipeline.zoos import ZooKind
from pipeline.zoos.build import ZooPlan, fit_shard, make_record


@dataclass(frozen=True)
class PlannedZoo:
    """A planned zoo, from which a `Feed` counts members and batches, as if all had weights."""

    plan: ZooPlan

    @property
    def shards(self) -> tuple[ShardRecord, ...]:
        return self.plan.record.shards

    def columns(self, names: Sequence[str]) -> pa.Table:
        source, view = (
            np.concatenate([getattr(shard, name) for shard in self.plan.shards])
            for name in ("source_index", "view")
        )
        block = np.zeros(len(source), np.int32)
        return pa.table({"block": block, "source_index": source, "view": view}).select(names)


class SmallZoo(Zoo):
    """A zoo of a few barely fitted members, to measure training steps on."""

    def __init__(self, zoo: Zoo, of: Signals):
        vars(self).update(vars(zoo))
        self._of = of

    def signals(self, *_: object) -> Signals:
        return self._of


def small_zoo(kind: ZooKind, folder: Path, trusted: Collection[str]) -> SmallZoo:
    """Build `kind.small()` in a new folder, finished."""
    small = kind.small()
    shards = small.plan_shards()
    claim_zoo(folder, make_record(small, shards))
    for shard in shards:
        fit_shard(small.config, folder, small.signals, shard)
    seal_zoo(folder)
    return SmallZoo(Zoo.open(folder, trusted), small.signals)
