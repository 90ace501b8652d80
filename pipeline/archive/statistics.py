"""Per-tensor mean and standard deviation of the train split, and the checksums that seal a zoo.

One pair of numbers per tensor: statistics of each entry would depend on the order of the hidden
neurons.
"""

from typing import Any

import torch

from pipeline.archive.files import sha256
from pipeline.archive.zoo import Zoo


def compute_seal(zoo: Zoo, zoo_json: bytes) -> dict[str, Any]:
    """The content of statistics.json: tensor statistics, sha256 of zoo.json and each catalog part.

    A catalog part has the sha256 of its shard, so the seal covers all files of a zoo.
    """
    for shard in zoo.record.shards:
        if shard.name not in zoo.parts:
            zoo.read_part(shard)  # raises ArchiveError
    checksums = {"zoo": sha256(zoo_json)}
    return (
        compute_statistics(zoo)
        | checksums
        | {"catalog": {name: part.sha256 for name, part in zoo.parts.items()}}
    )


def compute_statistics(zoo: Zoo) -> dict[str, Any]:
    """Statistics of the train split, merged block by block in float64 (Chan et al. 1979)."""
    merged = {spec.name: (0, 0.0, 0.0) for spec in zoo.space.tensors}
    num_members = 0
    for block, rows in zoo.blocks("train"):
        num_members += len(rows)
        for name, tensor in block.items():
            values = tensor.flatten().to(torch.float64)
            first = values[0].item()
            shifted = values - first  # exactly zero for a constant tensor, and so is its variance
            mean, variance = first + shifted.mean().item(), shifted.var(correction=0).item()
            merged[name] = merge(merged[name], (len(values), mean, variance))
    return {
        "split": "train",
        "num_members": num_members,
        "tensors": {
            name: {"mean": mean, "std": variance**0.5}
            for name, (_, mean, variance) in merged.items()
        },
    }


def merge(
    one: tuple[int, float, float], other: tuple[int, float, float]
) -> tuple[int, float, float]:
    """(count, mean, variance) of the union of two samples."""
    (n, mean, variance), (m, other_mean, other_variance) = one, other
    total, gap = n + m, other_mean - mean
    return (
        total,
        mean + gap * m / total,
        (n * variance + m * other_variance + gap * gap * n * m / total) / total,
    )
