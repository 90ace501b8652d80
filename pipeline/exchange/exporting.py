"""Writing a zoo in another format: whole or not at all."""

import os
import shutil
from pathlib import Path
from typing import Any

from pipeline.archive.files import exclusive, json_text, require_folder_name
from pipeline.archive.zoo import Zoo
from pipeline.config import ExchangeFormat
from pipeline.errors import InputError
from pipeline.exchange.formats import FORMATS
from pipeline.exchange.outgoing import exported_columns, num_exported
from pipeline.progress import Advance

SIDECAR = "dwszoo.json"
"""What the formats have no place for: how to run a member, what the signals were, the rows of members without weights."""


def export_zoo(zoo: Zoo, format: ExchangeFormat, out: Path, advance: Advance) -> int:
    """Write every member that has weights; returns how many.

    Raises InputError where `out` is not a new or empty folder and where no member has weights, ArchiveError where the zoo is
    not finished.
    """
    zoo.require_finished()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} must be a new or an empty folder: choose another --out")
    if not num_exported(zoo):
        raise InputError(f"zoo {zoo.folder} must have members with weights, all of them failed")
    require_folder_name(out)
    partial = out.with_name(f".{out.name}.partial")
    with exclusive(partial):  # what a killed export left behind, if anything, and nobody else's
        try:
            clear(partial)
            FORMATS[format].write(zoo, partial, advance)
            (partial / SIDECAR).write_text(json_text(sidecar(zoo)))
            (partial / ".lock").unlink()
            os.replace(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return num_exported(zoo)


def clear(folder: Path):
    """Remove everything but the lock."""
    for leftover in folder.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover)
        elif leftover.name != ".lock":
            leftover.unlink()


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
