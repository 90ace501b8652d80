"""Editing a zoo: each shard becomes one with the same members, in the same split, with new weights.

Keys, splits and columns are carried over, except columns that measured the weights. A member
without weights stays without.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.archive.files import sha256
from pipeline.archive.plan import SPLITS
from pipeline.archive.record import SCHEMA_VERSION, ShardRecord, ZooRecord
from pipeline.archive.shard import Block
from pipeline.archive.write import claim_zoo, commit_blocks
from pipeline.archive.zoo import Zoo
from pipeline.config import EditConfig, fingerprint
from pipeline.errors import WorkError
from pipeline.location import Location


@dataclass(frozen=True)
class Editor:
    """A function from networks to networks, and its provenance."""

    edit: Callable[[Block], Block]
    """Maps stacked state dicts to stacked state dicts, each member independently; deterministic."""
    sha256: str
    """Digest of everything that determines what `edit` does."""
    path: str
    """Folder of the run that trained it."""


@dataclass(frozen=True)
class EditPlan:
    record: ZooRecord
    zoo: Zoo
    editor: Editor


def plan_edit(zoo: Zoo, editor: Editor, folder: Location) -> EditPlan:
    """Edit one member to learn its new shapes, plan every shard, write zoo.json.

    Raises InputError if no member has weights or `folder` holds another zoo, ArchiveError if the
    zoo is not finished.
    """
    zoo.require_finished()
    zoo.require_weights()
    first = next(block for split in SPLITS for block, _ in zoo.blocks(split))
    edited = apply(editor, {name: tensor[:1] for name, tensor in first.items()}, "the first member")
    config = EditConfig(
        zoo=(zoo.record.fingerprint, sha256(zoo.seal_bytes)),
        model=editor.sha256,
        paths=(str(zoo.folder.resolve()), editor.path),
    )
    digest = zoo.record.signals.digest
    record = ZooRecord(
        format="dwszoo",
        schema_version=SCHEMA_VERSION,
        fingerprint=fingerprint(config.identity() | {"signals digest": digest}),
        config=config,
        signals=zoo.record.signals,
        tensors={name: tuple(tensor.shape[1:]) for name, tensor in edited.items()},
        decode=zoo.record.decode,
        shards=tuple(
            ShardRecord(name=shard.name, split=shard.split, num_members=shard.num_members)
            for shard in zoo.record.shards
        ),
        classes=zoo.record.classes,
        edited=zoo.record,
    )
    claim_zoo(folder, record)
    return EditPlan(record, zoo, editor)


def edit_shard(plan: EditPlan, folder: Location, name: str) -> int:
    """Commit a shard, which depends on the zoo and the editor alone; returns its number of members.

    Raises ArchiveError if its original is damaged, WorkError if edited weights are not finite.
    """
    part = plan.zoo.parts[name]
    blocks = [
        (apply(plan.editor, block, f"shard {name}"), keys)
        for block, keys in plan.zoo.read_shard(name, part)
    ]
    columns = {column: part.table[column] for column in plan.record.schema.names}
    commit_blocks(folder, name, blocks, columns, plan.record.schema)
    return len(part.table)


def apply(editor: Editor, block: Block, what: str) -> Block:
    torch.set_num_threads(1)  # the last bits of a sum depend on the number of threads
    with torch.no_grad():
        edited = {name: tensor.contiguous() for name, tensor in editor.edit(block).items()}
    for name, tensor in edited.items():
        if not tensor.isfinite().all():
            raise WorkError(
                f"the model of {editor.path} must give finite weights, found NaN or infinity in "
                f"{name} of {what}: train it with a smaller learning rate"
            )
    return edited
