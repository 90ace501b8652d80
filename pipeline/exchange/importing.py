"""Imports a zoo from another format: shards, catalog, splits, provenance."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from pydantic import ValidationError

from pipeline.archive.record import (
    SCHEMA_VERSION,
    ImportRecord,
    ShardRecord,
    SignalsRecord,
    ZooRecord,
)
from pipeline.archive.shard import Members
from pipeline.archive.write import claim_zoo, commit_shard
from pipeline.config import Frozen, ImportConfig, fingerprint
from pipeline.decode import DecodeContract
from pipeline.errors import InputError
from pipeline.exchange.exporting import SIDECAR
from pipeline.exchange.formats import FORMATS
from pipeline.exchange.intake import Intake, take_in
from pipeline.exchange.source import Source, read_json
from pipeline.location import Location

AnyRecord = TypeVar("AnyRecord", bound=Frozen)


@dataclass(frozen=True)
class ImportPlan:
    record: ZooRecord
    source: Source
    intake: Intake


def plan_import(config: ImportConfig, folder: Location) -> ImportPlan:
    """Open the source, plan splits and shards, write zoo.json.

    Raises InputError if the source is not in its format, a run is in two splits, or `folder` holds
    a zoo of another configuration.
    """
    if not config.path.exists():
        raise InputError(f"there is nothing to import at {config.path}")
    source = FORMATS[config.format].read(config.path)
    sidecar = read_sidecar(folder_of(config.path))
    intake = take_in(config, source.rows, sidecar.get("failed", []))
    record = make_record(config, source, intake, sidecar)
    claim_zoo(folder, record)
    return ImportPlan(record, source, intake)


def import_shard(plan: ImportPlan, folder: Location, name: str):
    """Read the members of a shard and commit it; the catalog says why a member has no weights."""
    record, index = plan.record, plan.intake.shards[name]
    rows = plan.intake.rows.take(index)
    known = np.asarray(index) < len(plan.source.rows)
    loaded = plan.source.load(np.asarray(index)[known])
    values = np.zeros((len(index), record.space.num_parameters), np.float32)
    values[known] = loaded.values
    reasons = rows["stop_reason"].to_pylist()
    keys, problems = rows["key"].to_pylist(), dict[int, str]()
    for position in np.flatnonzero(~known).tolist():
        problems[position] = reasons[position] or "failed in the source"
    for position, problem in loaded.problems.items():
        problems[int(np.flatnonzero(known)[position])] = problem
    for position, row in enumerate(index):
        if row in plan.intake.problems:
            problems.setdefault(position, plan.intake.problems[row])
    ok = np.ones(len(index), bool)
    for position, problem in problems.items():
        ok[position], reasons[position] = False, problem
    columns = {
        name: rows[name].combine_chunks()
        for name in rows.column_names
        if name not in ("key", "split")
    }
    columns["stop_reason"] = pa.array(reasons, pa.string())
    members = Members(keys, torch.from_numpy(values), ok, columns)
    assert isinstance(record.config, ImportConfig)
    block_size = record.config.block_size
    commit_shard(folder, name, members, record.space, block_size, record.schema)


def read_sidecar(folder: Path) -> dict[str, Any]:
    """The extra file of our own exporter; empty if another program wrote the source."""
    content = read_json(folder / SIDECAR) if (folder / SIDECAR).is_file() else {}
    match content:
        case {"failed": [*failed], "signals": {}, "decode": {}} if all(
            isinstance(row, dict) for row in failed
        ) and isinstance(content.get("sources", ""), str):
            return dict(content)
        case {} if not content:
            return {}
    raise InputError(
        f"{folder / SIDECAR} is not what `dwszoo zoo export` writes: delete it to import without it"
    )


def make_record(
    config: ImportConfig, source: Source, intake: Intake, sidecar: dict[str, Any]
) -> ZooRecord:
    beside = [file] if (file := folder_of(config.path) / SIDECAR).is_file() else []
    digest, layout = digest_of(folder_of(config.path), [*source.files, *beside]), source.layout
    config = config.model_copy(update={"path": config.path.resolve()})
    specs = layout.space.tensors
    return ZooRecord(
        format="dwszoo",
        schema_version=SCHEMA_VERSION,
        fingerprint=fingerprint(config.identity() | {"signals digest": digest}),
        config=config,
        signals=signals_record(config, intake, sidecar, digest, specs[-1].shape[0]),
        tensors={spec.name: spec.shape for spec in specs},
        decode=decode_contract(config, source, sidecar),
        shards=tuple(
            ShardRecord(name=name, split=name.rsplit("-", 1)[0], num_members=len(index))
            for name, index in intake.shards.items()
        ),
        imported=ImportRecord(
            path=str(config.path),
            num_files=len(source.files),
            sha256=digest,
            tensors={tensor.name: (tensor.theirs, tensor.their_shape) for tensor in layout.tensors},
            columns=intake.columns,
            sources=sidecar.get("sources") if intake.keeps_sources else None,
        ),
    )


def signals_record(
    config: ImportConfig, intake: Intake, sidecar: dict[str, Any], digest: str, outputs: int
) -> SignalsRecord:
    """The signals of the members, from the sidecar; otherwise the folder's name and no grid."""
    unknown = {
        "name": f"{config.path.name} ({config.format})",
        "grid": (),
        "class_names": intake.class_names,
    }
    known = {"num_signals": intake.num_groups, "digest": digest, "num_channels": outputs}
    return checked(SignalsRecord, config, unknown | dict(sidecar.get("signals", {})) | known)


def decode_contract(
    config: ImportConfig, source: Source, sidecar: dict[str, Any]
) -> DecodeContract:
    """How to run a member: fields of the source, overridden by the configuration, else null."""
    stated = dict.fromkeys(DecodeContract.model_fields) | dict(
        sidecar.get("decode") or source.decode
    )
    num_hidden = source.layout.num_layers - 1
    if config.activation is not None:
        stated["activations"] = (*[config.activation] * num_hidden, "linear")
    stated |= {
        name: value
        for name in ("omega", "sigma", "output_offset")
        if (value := getattr(config, name)) is not None
    }
    omega = stated["omega"]
    if isinstance(omega, list | tuple) and len(omega) != num_hidden:
        raise InputError(
            f"omega must be one number or one for each of {num_hidden} hidden layers, found "
            f"{[*omega]}"
        )
    return checked(DecodeContract, config, stated)


def checked(kind: type[AnyRecord], config: ImportConfig, content: dict[str, Any]) -> AnyRecord:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        field, problem = error.errors()[0]["loc"], error.errors()[0]["msg"]
        raise InputError(
            f"{SIDECAR} of {config.path} is damaged at {field} ({problem}): delete it to import "
            "without it"
        ) from error


def folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def digest_of(root: Path, files: Sequence[Path]) -> str:
    """sha256 of the names, relative to `root`, and the contents of files."""
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        with open(file, "rb") as content:
            entry = (
                str(file.relative_to(root)),
                hashlib.file_digest(content, "sha256").hexdigest(),
            )
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()
