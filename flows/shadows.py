"""Modules in a folder that Python would import in place of those that runs need."""

from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import InputError


def require_no_shadows(folder: Path):
    """Raises InputError if a module in `folder`, where scheduled runs start, hides another one.

    Prefect starts them by `python -m`, for which the current folder comes first.
    """
    for file in sorted(folder.iterdir()):
        if hidden := hidden_by(file):
            raise InputError(
                f"scheduled runs start in the current folder, where Python would import {file} in "
                f"place of {hidden}: rename it, or run this command in another folder"
            )


def hidden_by(file: Path) -> str | None:
    """The module of the same name as a module or package; None if there is no other."""
    own = file / "__init__.py" if file.is_dir() else file
    if own.suffix != ".py" or not own.is_file() or file.stem.startswith("__"):
        return None
    spec = find_spec(file.stem) if file.stem.isidentifier() else None
    found = Path(spec.origin) if spec and spec.origin else own
    return str(found) if found.is_file() and not found.samefile(own) else None
