"""A shard: a plain WebDataset tar whose samples are blocks of members.

`KEY.safetensors` holds the state dict's tensors stacked along a leading member axis, `KEY.json` the members' keys.
"""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import webdataset
from torch import Tensor

from dwsnet.weight_space import WeightSpace
from pipeline.errors import ArchiveError
from pipeline.fit.siren import unpack

Block = dict[str, Tensor]
"""Stacked state dicts: `(members, *shape)` float32 by tensor name."""


@dataclass(frozen=True)
class Members:
    """The members of a shard, in order, those without weights too."""

    keys: list[str]
    rows: Tensor
    """`(members, parameters)` float32, in the order of the weight space."""
    ok: np.ndarray
    """`(members,)` bool: who has weights."""
    columns: dict[str, Any]
    """Catalog columns beside key, split, shard, block, row and status."""


def pack_blocks(space: WeightSpace, members: Members, block_size: int) -> list[tuple[Block, list[str]]]:
    """The members that have weights, in order, as blocks with their keys."""
    blocks = []
    kept = np.flatnonzero(members.ok)
    for start in range(0, len(kept), block_size):
        index = kept[start : start + block_size]
        tensors = unpack(space, members.rows[index])
        block = {spec.name: tensor for spec, tensor in zip(space.tensors, tensors, strict=True)}
        blocks.append((block, [members.keys[i] for i in index]))
    return blocks


def encode_shard(name: str, blocks: Sequence[tuple[Block, list[str]]]) -> bytes:
    """The tar's bytes, a function of name, tensors and keys alone (no times, no owners)."""
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, mtime=0, encoder=False) as writer:
        for number, (block, keys) in enumerate(blocks):
            writer.write(
                {
                    "__key__": f"{name}-{number:04d}",
                    "safetensors": safetensors.torch.save({key: tensor.contiguous() for key, tensor in block.items()}),
                    "json": json.dumps(keys).encode(),
                }
            )
    return buffer.getvalue()


def decode_shard(name: str, data: bytes, space: WeightSpace) -> list[tuple[Block, list[str]]]:
    """The blocks of a shard, in order. Raises ArchiveError where the bytes are not what `encode_shard` makes.

    Reads safetensors and JSON alone: nothing is unpickled, and no member's name is used as a path.
    """
    blocks = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            places = {member.name: (member.offset_data, member.size) for member in tar if member.isfile()}
        content = {member: data[start : start + size] for member, (start, size) in places.items()}
        for number in range(len(content) // 2):
            key = f"{name}-{number:04d}"
            keys = json.loads(content[f"{key}.json"])
            block = safetensors.torch.load(content[f"{key}.safetensors"])
            check_block(f"block {key}", block, space, len(keys))
            blocks.append(({spec.name: block[spec.name] for spec in space.tensors}, keys))
    except (tarfile.TarError, safetensors.SafetensorError, ValueError, KeyError, EOFError) as error:
        raise ArchiveError(f"shard {name} cannot be read ({error}): `dwszoo zoo verify` says what is wrong") from error
    return blocks


def check_block(what: str, block: Block, space: WeightSpace, num_members: int):
    """Raises ArchiveError where a block's tensors are not those of `num_members` members of `space`."""
    expected = {spec.name: (num_members, *spec.shape) for spec in space.tensors}
    found = {name: tuple(tensor.shape) for name, tensor in block.items()}
    if found != expected:
        raise ArchiveError(f"{what} must hold tensors {expected}, found {found}")
