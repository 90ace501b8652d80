"""An empty Prefect database in the user's cache: Prefect takes seconds to create one."""

import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

DATABASE = "prefect.db"
"""Its name in the home of a server."""


def cached() -> Path:
    """Where the empty database of this version of Prefect is."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "dwszoo" / f"prefect-{version('prefect')}.db"


def restore_database(home: Path):
    """Give a server that is about to start the cached database, if there is one."""
    # Without it, the server creates its own.
    with suppress(OSError, sqlite3.Error):
        copy(cached(), home / DATABASE)


def cache_database(home: Path):
    """Cache the database of a server that has just started, unless that is done."""
    place = cached()
    with suppress(OSError, sqlite3.Error):
        if not place.exists():
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
                copy(home / DATABASE, Path(scratch) / DATABASE)
                (Path(scratch) / DATABASE).replace(place)


def copy(source: Path, target: Path):
    """Copy a whole database, which another process may be using. Raises sqlite3.Error."""
    address = f"{source.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as old:
        (result,) = old.execute("PRAGMA quick_check(1)").fetchone()
        if result != "ok":
            raise sqlite3.DatabaseError(result)
        with closing(sqlite3.connect(target)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode = DELETE")  # in one file
