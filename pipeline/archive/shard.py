"""A shard: a plain WebDataset tar whose samples are blocks of members.

`KEY.safetensors` holds the tensors of the state dicts, stacked along a leading member axis,
`KEY.json` the members' keys.
"""

import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.torch
import torch
import webdataset
from torch import Tensor

from dwsnet.state import unpack
from dwsnet.weight_space import WeightSpace
from pipeline.archive.catalog import BlockMark, ShardMark
from pipeline.archive.files import read_array, sha256
from pipeline.errors import ArchiveError
from pipeline.location import Location

Block = dict[str, Tensor]
"""Stacked state dicts: `(members, *shape)` float32 by tensor name."""
REBUILD = "`dwszoo zoo build` (or `import`, `merge`) makes it again"
TAR_BLOCK = 512
HEADER_LENGTH = 8
"""Bytes at the start of a safetensors file, which hold the length of its header."""


@dataclass(frozen=True)
class Members:
    """The members of a shard, in order, including those without weights."""

    keys: list[str]
    rows: Tensor
    """`(members, parameters)` float32, in the order of the weight space."""
    ok: np.ndarray
    """`(members,)` bool: which members have weights."""
    columns: dict[str, Any]
    """Catalog columns other than key, split, shard, block, row and status."""


def pack_blocks(
    space: WeightSpace, members: Members, block_size: int
) -> list[tuple[Block, list[str]]]:
    """The members that have weights, in order, as blocks with their keys."""
    blocks = []
    kept = np.flatnonzero(members.ok)
    for start in range(0, len(kept), block_size):
        index = kept[start : start + block_size]
        blocks.append((unpack(space, members.rows[index]), [members.keys[i] for i in index]))
    return blocks


def encode_shard(name: str, blocks: Sequence[tuple[Block, list[str]]]) -> bytes:
    """The bytes of the tar, which depend on name, tensors and keys alone (no times, no owners)."""
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, mtime=0, encoder=False) as writer:
        for number, (block, keys) in enumerate(blocks):
            writer.write(
                {
                    "__key__": f"{name}-{number:04d}",
                    "safetensors": safetensors.torch.save(
                        {key: tensor.contiguous() for key, tensor in block.items()}
                    ),
                    "json": json.dumps(keys).encode(),
                }
            )
    return buffer.getvalue()


def mark_of(data: bytes, blocks: Sequence[tuple[Block, list[str]]]) -> ShardMark:
    """The mark of the shard of these blocks, encoded as `data`, for its catalog part."""
    array, marks = np.frombuffer(data, np.uint8), []
    files = (span for name, span in tar_entries(array) if name.endswith(".safetensors"))
    for span, (_, keys) in zip(files, blocks, strict=True):
        num_bytes = span.stop - span.start
        marks.append(BlockMark(span.start, num_bytes, len(keys), sha256(array[span])))
    return ShardMark(sha256(data), len(data), tuple(marks))


def read_blocks(
    path: Location, name: str, mark: ShardMark, space: WeightSpace
) -> list[tuple[Block, list[str]]]:
    """The blocks of a committed shard, in order.

    Raises ArchiveError if it is missing or differs from what was committed.
    """
    try:
        data = read_array(path, mark.num_bytes)
    except FileNotFoundError:
        raise ArchiveError(
            f"shard {path} is missing though the catalog names it: {REBUILD}"
        ) from None
    except ValueError as error:
        raise ArchiveError(f"shard {error}: {REBUILD}") from error
    if (digest := sha256(data)) != mark.sha256:
        raise ArchiveError(
            f"shard {path} must have sha256 {mark.sha256}, found {digest}: {REBUILD}"
        )
    return decode_shard(name, data, space)


def decode_shard(name: str, data: np.ndarray, space: WeightSpace) -> list[tuple[Block, list[str]]]:
    """The blocks of a shard, in order, as views of its bytes `(bytes,)` uint8, without copying.

    Raises ArchiveError if `encode_shard` cannot have made these bytes. Reads only sizes and JSON,
    never allocates as much as they claim, and never uses the name of a member as a path.
    """
    blocks = []
    try:
        content = {entry: data[span] for entry, span in tar_entries(data)}
        for number in range(len(content) // 2):
            key = f"{name}-{number:04d}"
            keys = json.loads(content.pop(f"{key}.json").tobytes())
            if not isinstance(keys, list) or set(map(type, keys)) - {str}:
                raise ValueError(f"{key}.json must be a list of keys")
            blocks.append(
                (stacked_tensors(content.pop(f"{key}.safetensors"), space, len(keys)), keys)
            )
        if content:
            raise ValueError(f"it must hold nothing but its blocks, found {next(iter(content))!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArchiveError(
            f"shard {name} cannot be read ({error}): `dwszoo zoo verify` says what is wrong"
        ) from error
    return blocks


def tar_entries(data: np.ndarray) -> Iterator[tuple[str, slice]]:
    """The name and the span of bytes of each file in a tar.

    Raises ValueError if it holds anything but plain files or is truncated.
    """
    start = 0
    while start + TAR_BLOCK <= len(data):
        header = data[start : start + TAR_BLOCK].tobytes()
        if not header.strip(b"\0"):
            return
        if (
            int(header[148:154], 8) != sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
            or header[156:157] != b"0"
        ):
            raise ValueError(f"expected the header of a plain file at byte {start}")
        name, size = header[:100].rstrip(b"\0").decode(), int(header[124:135], 8)
        start += TAR_BLOCK
        if not 0 <= size <= len(data) - start:
            raise ValueError(f"{name!r} must have {size} bytes, found {len(data) - start}")
        yield name, slice(start, start + size)
        start += -(-size // TAR_BLOCK) * TAR_BLOCK
    raise ValueError("the end of the tar is missing")


def stacked_tensors(data: np.ndarray, space: WeightSpace, num_members: int) -> Block:
    """The tensors of a safetensors file of `num_members` members of `space`, without gaps.

    Raises ValueError, KeyError or TypeError if the file holds anything else.
    """
    length = int.from_bytes(data[:HEADER_LENGTH].tobytes(), "little")
    if not length <= len(data) - HEADER_LENGTH:
        raise ValueError(f"a header of {length} bytes does not fit into {len(data)}")
    header = json.loads(data[HEADER_LENGTH : HEADER_LENGTH + length].tobytes())
    if not isinstance(header, dict) or not all(
        isinstance(entry, dict) for entry in header.values()
    ):
        raise ValueError("its header must be an object of objects")
    expected = {spec.name: (num_members, *spec.shape) for spec in space.tensors}
    found = {tensor: (*entry["shape"],) for tensor, entry in header.items()}
    if found != expected or {entry["dtype"] for entry in header.values()} != {"F32"}:
        raise ValueError(f"it must hold float32 tensors {expected}, found {shown(header)}")
    values, place, block = data[HEADER_LENGTH + length :], 0, {}
    for tensor in sorted(header, key=lambda tensor: header[tensor]["data_offsets"]):
        size = 4 * math.prod(expected[tensor])
        if header[tensor]["data_offsets"] != [place, place + size] or place + size > len(values):
            raise ValueError(
                f"{tensor} must be at {place} of {len(values)} bytes, found "
                f"{header[tensor]['data_offsets']}"
            )
        block[tensor] = torch.from_numpy(
            values[place : place + size].view(np.float32).reshape(expected[tensor])
        )
        place += size
    if place != len(values):
        raise ValueError(f"tensors must fill {len(values)} bytes, found {place}")
    return {spec.name: block[spec.name] for spec in space.tensors}


def are_members(table: pa.Table, keys: list[list[str]]) -> bool:
    """Whether the rows with weights are the members of these blocks, in order."""
    rows = table.select(["block", "row", "key"]).filter(pc.equal(table["status"], "ok"))
    sizes = np.array([len(block) for block in keys], np.int64)
    block = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    row = np.arange(sizes.sum(), dtype=np.int32) - np.repeat(
        np.cumsum(sizes) - sizes, sizes
    ).astype(np.int32)
    try:
        stored = pa.array(list(chain.from_iterable(keys)), pa.string())
    except ValueError:  # text that Arrow cannot encode
        return False
    return rows.equals(pa.table([block, row, stored], schema=rows.schema))


def shown(header: dict[str, Any]) -> str:
    """Types and shapes, shortened for an error message."""
    return str({tensor: (entry["dtype"], entry["shape"]) for tensor, entry in header.items()})[:200]
