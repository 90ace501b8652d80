"""Writes a zoo in another format, all or nothing."""

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
"""Data that other formats cannot hold: how to run a member, what the signals were, the rows of
members without weights."""


def export_zoo(zoo: Zoo, format: ExchangeFormat, out: Path, advance: Advance) -> int:
    """Write every member that has weights; returns their number.

    Raises InputError if `out` is not a new or empty folder or no member has weights, ArchiveError
    if the zoo is not finished.
    """
    zoo.require_finished()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} must be a new or an empty folder: choose another --out")
    if not num_exported(zoo):
        raise InputError(f"zoo {zoo.folder} must have members with weights, all of them failed")
    require_folder_name(out)
    partial = out.with_name(f".{out.name}.partial")
    with exclusive(partial):  # perhaps left by a killed export, but of no other process
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
