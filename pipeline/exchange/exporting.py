"""Writes a zoo in another format, all or nothing."""

from pathlib import Path
from typing import Any

from pipeline.archive.files import json_text
from pipeline.archive.new_folder import new_folder
from pipeline.archive.zoo import Zoo
from pipeline.config import ExchangeFormat
from pipeline.exchange.formats import FORMATS
from pipeline.exchange.outgoing import exported_columns, num_exported
from pipeline.progress import Advance

SIDECAR = "dwszoo.json"
"""Data that other formats cannot hold: how to run a member, what the signals were, the rows of
members without weights."""


def export_zoo(zoo: Zoo, format: ExchangeFormat, out: Path, advance: Advance) -> int:
    """Write every member that has weights; returns their number.

    Raises InputError if `out` is not a new or empty folder or no member has weights, ArchiveError
    if the zoo is not finished.
    """
    zoo.require_finished()
    with new_folder(out) as folder:
        zoo.require_weights()
        FORMATS[format].write(zoo, folder, advance)
        (folder / SIDECAR).write_text(json_text(sidecar(zoo)))
    return num_exported(zoo)


def sidecar(zoo: Zoo) -> dict[str, Any]:
    record, table = zoo.record, zoo.catalog
    failed = table.filter([status == "failed" for status in table["status"].to_pylist()])
    return {
        "fingerprint": record.fingerprint,
        "sources": record.sources,
        "decode": record.decode.model_dump(mode="json"),
        "signals": record.signals.model_dump(mode="json", include={"name", "grid", "class_names"}),
        "failed": failed.select(exported_columns(zoo)).to_pylist(),
    }
