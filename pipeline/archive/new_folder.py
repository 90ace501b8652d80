"""Folders that are written as a whole, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.archive.files import LOCK, exclusive, require_folder_name
from pipeline.errors import InputError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `out` when the block ends; an error leaves nothing.

    Raises InputError if `out` is not a new or empty folder, or is named like a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} must be a new or an empty folder: choose another --out")
    require_folder_name(out)
    partial = out.with_name(f".{out.name}.partial")
    with exclusive(partial):  # perhaps left by a killed process, but of no other one
        try:
            clear(partial)
            yield partial
            (partial / LOCK).unlink()
            os.replace(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def clear(folder: Path):
    """Remove everything but the lock."""
    for leftover in folder.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover)
        elif leftover.name != LOCK:
            leftover.unlink()
