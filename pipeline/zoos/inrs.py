"""Zoos of INRs: a member is fitted to one view of one signal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch

from dwsnet.weight_space import WeightSpace
from pipeline.archive.growth import Growth
from pipeline.archive.plan import SPLITS, ShardPlan
from pipeline.archive.shard import Members
from pipeline.config import InrConfig, ZooConfig
from pipeline.decode import DecodeContract, coordinates_of
from pipeline.fit.adam import find_kernel, fit, psnr_at
from pipeline.fit.inr import decode_contract, inr_space
from pipeline.fit.seeds import member_keys
from pipeline.fit.timing import seconds_of
from pipeline.progress import Advance, no_progress
from pipeline.signals import NO_LABEL, Signals, cell_centres
from pipeline.zoos.splits import few_signals, split_sources

FEWEST_TIMED = {"cpu": 8, "cuda": 1024}
"""Minimum number of members that are fitted to measure the time."""


@dataclass(frozen=True)
class Inrs:
    config: ZooConfig
    signals: Signals
    members: ClassVar[str] = "INRs"
    quality: ClassVar[str] = "psnr"

    @staticmethod
    def in_words(quality: float) -> str:
        return f"PSNR {quality:.1f} dB"

    @property
    def space(self) -> WeightSpace:
        return inr_space(self.config.inr, len(self.signals.grid), self.signals.num_channels)

    @property
    def facts(self) -> dict[str, str]:
        return {name: str(pa.array(fact[:0]).type) for name, fact in self.signals.facts.items()}

    def decode_contract(self) -> DecodeContract:
        return decode_contract(self.config.inr, len(self.signals.grid))

    def plan_shards(self, grown: Sequence[Growth] = ()) -> list[ShardPlan]:
        """Each view of a split's signals in an order of its own, cut into `shard_size` members.

        The members of each growth follow in the same way.
        """
        config, shards, numbers = self.config, list[ShardPlan](), Counter[str]()
        sizes = [(growth.views, growth.num_signals) for growth in grown]
        splits = split_sources(config, self.signals, [num_signals for _, num_signals in sizes])
        sizes = [(0, 0), *sizes, (config.views, len(self.signals))]
        for time, (before, after) in enumerate(pairwise(sizes)):
            for split_index, (split, sources) in enumerate(splits.items()):
                key = [config.seed, 2, split_index], [time] if time else []
                source_index, view = new_members(sources, before, after, key)
                for start in range(0, len(source_index), config.shard_size):
                    part = slice(start, start + config.shard_size)
                    name = f"{split}-{numbers[split]:06d}"
                    shards.append(ShardPlan(name, split, source_index[part], view[part]))
                    numbers[split] += 1
        return shards

    def class_counts(self, shards: list[ShardPlan]) -> dict[str, tuple[int, ...]] | None:
        num_classes = len(self.signals.class_names)
        if not num_classes:
            return None
        counts = {split: np.zeros(num_classes, np.int64) for split in SPLITS}
        for shard in shards:
            labels = self.signals.labels[shard.source_index]
            counts[shard.split] += np.bincount(labels[labels != NO_LABEL], minlength=num_classes)
        return {split: tuple(count.tolist()) for split, count in counts.items()}

    def prepare(self, device: str):
        """Load the kernel before the workers do: it is built once, and warnings appear here."""
        if device == "cpu" or torch.cuda.is_available():
            sizes = (len(self.signals.grid), *self.config.inr.hidden, self.signals.num_channels)
            find_kernel(self.config.inr, sizes, device)

    def fit_members(self, shard: ShardPlan, device: str, advance: Advance) -> Members:
        config, signals, source_index = self.config, self.signals, shard.source_index
        values = channels_first(signals.values[source_index])
        sources = np.zeros_like(source_index) if config.inr.shared_init else source_index
        seeds = member_keys(config.seed, sources, shard.view)
        grid = coordinates_of(self.decode_contract(), signals.grid)
        fitted = fit(self.space, config.inr, config.fit, seeds, grid, values, device, advance)
        off_grid = psnr_off_grid(self.space, config.inr, fitted.rows, signals, source_index, device)
        reason = np.where(values.isfinite().all((1, 2)).numpy(), fitted.stop_reason, "unreadable")
        keys = [
            f"{source:08d}-{view:04d}"
            for source, view in zip(source_index, shard.view, strict=True)
        ]
        labels = signals.labels[source_index]
        columns = {
            "source_index": source_index,
            "source_name": [signals.names and signals.names[source] for source in source_index],
            "view": shard.view.astype(np.int32),
            "label": pa.array(labels, mask=labels == NO_LABEL),
            "seed": seeds,
            "stop_reason": reason.tolist(),
            "failure": [signals.failures.get(source) for source in source_index.tolist()],
            "steps": fitted.steps,
            "psnr": pa.array(fitted.psnr, mask=~fitted.ok),
            "psnr_off_grid": pa.array(off_grid, mask=~(fitted.ok & np.isfinite(off_grid))),
        } | {
            name: pa.array(fact[source_index], from_pandas=True)  # NaN is null
            for name, fact in signals.facts.items()
        }
        return Members(keys, fitted.rows, fitted.ok, columns)

    def small(self) -> "Inrs":
        fit = self.config.fit.model_copy(update={"max_steps": 1})
        config = self.config.model_copy(update={"fit": fit})
        return Inrs(config, few_signals(config, self.signals))

    def fit_seconds(self, shards: Sequence[ShardPlan], device: str, budget: float) -> float:
        """Times more and more steps of a few members, then all steps of more and more members.

        If even a few take too long, the estimate assumes that no member reaches its target early.
        """
        largest, most = max(shards, key=lambda shard: len(shard.view)), self.config.fit.max_steps
        members, steps = FEWEST_TIMED[device], 1
        self._seconds(largest, members, steps, device)  # compiles and allocates memory
        while True:
            spent = self._seconds(largest, members, steps, device)
            if spent > budget / 2 or (steps == most and members >= len(largest.view)):
                break
            if steps < most:
                steps = min(2 * steps, most)
            else:
                members *= 2
        timed = min(members, len(largest.view))
        total = sum(len(shard.view) for shard in shards)
        return spent * (total / timed) * (most / steps)

    def _seconds(self, shard: ShardPlan, members: int, steps: int, device: str) -> float:
        """Seconds that `steps` steps of the first `members` of a shard take."""
        few = replace(shard, source_index=shard.source_index[:members], view=shard.view[:members])
        fit = self.config.fit.model_copy(update={"max_steps": steps})
        kind = replace(self, config=self.config.model_copy(update={"fit": fit}))
        return seconds_of(lambda: kind.fit_members(few, device, no_progress), device)


def new_members(
    sources: np.ndarray,
    before: tuple[int, int],
    after: tuple[int, int],
    key: tuple[list[int], list[int]],
) -> tuple[np.ndarray, np.ndarray]:
    """Signal and view, each `(members,)`, of the members of a split that growing adds to a zoo.

    `before` and `after` are (views, signals). `key`, with the view in the middle, seeds the order
    of each view.
    """
    orders = []
    for view in range(after[0]):
        first = before[1] if view < before[0] else 0
        came = sources[(first <= sources) & (sources < after[1])]
        orders.append(np.random.default_rng([*key[0], view, *key[1]]).permutation(came))
    return np.concatenate(orders), np.repeat(np.arange(after[0]), [len(it) for it in orders])


def psnr_off_grid(
    space: WeightSpace,
    inr: InrConfig,
    rows: torch.Tensor,
    signals: Signals,
    source_index: np.ndarray,
    device: str,
) -> np.ndarray:
    """`(members,)` PSNR in dB at the centres of the grid's cells, where no member was fitted.

    The reference is the multilinear interpolation of the signal. Its edges are no sharper than the
    grid, so a member with sharper edges also scores low.
    """
    num_dims = len(signals.grid)
    contract = decode_contract(inr, num_dims)
    grid = coordinates_of(contract, signals.grid).view(1, *signals.grid, num_dims)
    centres = cell_centres(grid, num_dims).view(-1, num_dims)
    wanted = channels_first(cell_centres(signals.values[source_index], num_dims))
    return psnr_at(space, inr, rows, centres, wanted, device).numpy()


def channels_first(values: np.ndarray) -> torch.Tensor:
    """`(members, *grid, channels)` as `(members, channels, points)`."""
    return torch.from_numpy(values).flatten(1, -2).transpose(1, 2).contiguous()
