"""Extents, the units of random access to a zoo: blocks, or whole shards.

Shards of older versions do not say where their blocks are, so they are read whole.
"""

from dataclasses import dataclass

import pyarrow.compute as pc
import torch

from pipeline.archive.catalog import BlockMark, ShardMark, shard_path
from pipeline.archive.files import read_array, sha256
from pipeline.archive.shard import REBUILD, Block, stacked_tensors
from pipeline.archive.zoo import Zoo
from pipeline.errors import ArchiveError


@dataclass(frozen=True)
class Extent:
    shard: str
    num_members: int
    """Members that have weights."""
    block: BlockMark | None = None
    """None for the whole shard."""


def extents_of(zoo: Zoo, split: str) -> list[Extent]:
    """The extents of all members of a split that have weights, in the order of the plan.

    Raises ArchiveError if a catalog part is damaged.
    """
    extents = []
    for shard in zoo.shards_of(split):
        blocks = zoo.marks[shard.name].blocks
        if blocks is None:
            part = zoo.parts[shard.name]
            num_members = pc.sum(part.table["block"].is_valid()).as_py() or 0
            extents.append(Extent(shard.name, num_members))
        else:
            extents += [Extent(shard.name, block.num_members, block) for block in blocks]
    return [extent for extent in extents if extent.num_members]


def read_extent(zoo: Zoo, extent: Extent, verify: bool) -> Block:
    """The members of an extent, stacked. `verify` checks the sha256, which a whole shard always is.

    Raises ArchiveError if it is missing or differs from what was committed.
    """
    if extent.block is not None:
        return read_block(zoo, extent.shard, zoo.marks[extent.shard], extent.block, verify)
    blocks = [block for block, _ in zoo.read_shard(extent.shard, zoo.parts[extent.shard])]
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def read_block(zoo: Zoo, shard: str, mark: ShardMark, block: BlockMark, verify: bool) -> Block:
    """A block of a shard; `verify` checks its sha256. Raises like `read_extent`."""
    path, span = shard_path(zoo.folder, shard), slice(block.start, block.start + block.num_bytes)
    try:
        data = read_array(path, mark.num_bytes, span)
        if verify and (digest := sha256(data)) != block.sha256:
            raise ValueError(f"from byte {block.start} on it has sha256 {digest}")
        return stacked_tensors(data, zoo.space, block.num_members)
    except FileNotFoundError:
        raise ArchiveError(
            f"shard {path} is missing though the catalog names it: {REBUILD}"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArchiveError(
            f"shard {path} must have a block with sha256 {block.sha256} ({error}): {REBUILD}"
        ) from error
