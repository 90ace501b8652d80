"""Zoos of INRs: a member is fitted to one view of one signal."""

import numpy as np
import pyarrow as pa
import torch

from dwsnet.weight_space import WeightSpace
from pipeline.archive import catalog
from pipeline.archive.network import DecodeContract
from pipeline.archive.plan import ShardPlan, split_sources
from pipeline.archive.shard import Members
from pipeline.config import ZooConfig
from pipeline.fit.adam import fit
from pipeline.fit.kernel import load_kernel
from pipeline.fit.seeds import member_keys
from pipeline.fit.siren import inr_space
from pipeline.signals import Signals, coordinates

MEMBERS, QUALITY, SCHEMA = "INRs", "psnr", catalog.SCHEMA


def tell(quality: float) -> str:
    return f"PSNR {quality:.1f} dB"


def prepare():
    """Build the kernel before the workers look for it, and warn here, where it is seen."""
    load_kernel()


def weight_space(config: ZooConfig, signals: Signals) -> WeightSpace:
    return inr_space(config.inr, len(signals.grid), signals.num_channels)


def decode_contract(config: ZooConfig, signals: Signals) -> DecodeContract:
    return DecodeContract(
        activations=(*("sine" for _ in config.inr.hidden), "linear"),
        omega=config.inr.omega,
        output_offset=config.inr.output_offset,
        coordinate_range=(-1.0, 1.0),
        coordinate_order="row-major: (y, x) for images",
        value_range=(0.0, 1.0),
    )


def plan_shards(config: ZooConfig, signals: Signals) -> list[ShardPlan]:
    """Every shard of the zoo: each view of a split's signals in an order of its own, cut into `shard_size` members."""
    shards = []
    for split_index, (split, sources) in enumerate(split_sources(config, signals).items()):
        orders = [
            np.random.default_rng([config.seed, 2, split_index, view]).permutation(sources) for view in range(config.views)
        ]
        source_index = np.concatenate(orders)
        view = np.repeat(np.arange(config.views), len(sources))
        for number, start in enumerate(range(0, len(source_index), config.shard_size)):
            part = slice(start, start + config.shard_size)
            shards.append(ShardPlan(f"{split}-{number:06d}", split, source_index[part], view[part]))
    return shards


def fit_members(config: ZooConfig, signals: Signals, shard: ShardPlan, device: str) -> Members:
    """INRs are fitted on the CPU whatever the device."""
    values = torch.from_numpy(signals.values[shard.source_index]).flatten(1, -2).transpose(1, 2).contiguous()
    sources = np.zeros_like(shard.source_index) if config.inr.shared_init else shard.source_index
    seeds = member_keys(config.seed, sources, shard.view)
    grid = torch.from_numpy(coordinates(signals.grid))
    fitted = fit(weight_space(config, signals), config.inr, config.fit, seeds, grid, values)
    reason = np.where(values.isfinite().all((1, 2)).numpy(), fitted.stop_reason, "unreadable")
    keys = [f"{source:08d}-{view:04d}" for source, view in zip(shard.source_index, shard.view, strict=True)]
    columns = {
        "source_index": shard.source_index,
        "view": shard.view.astype(np.int32),
        "label": signals.labels[shard.source_index],
        "seed": seeds,
        "stop_reason": reason.tolist(),
        "steps": fitted.steps,
        "psnr": pa.array(fitted.psnr, mask=~fitted.ok),
    }
    return Members(keys, fitted.rows, fitted.ok, columns)
