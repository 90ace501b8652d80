"""The folders of checkpoints: `checkpoints/epoch-NNNN/`, and `epoch-NNNN-step-NNNNNN/` within an epoch.

`checkpoints` is a folder in that of the run, or a link to one elsewhere, or a file with the URI of one. A checkpoint is
there when it has its last file: on this machine a folder gets its name when it is whole, object stores have no renames.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from operator import truediv
from pathlib import Path

from pipeline.archive.files import list_folders, remove_folder, write_atomic
from pipeline.errors import InputError
from pipeline.location import Location, RemotePath, locate

NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?")
LAST = "training.json"
"""The file of a checkpoint that is written last and removed first."""


def checkpoint_folder(run: Path, epoch: int, step: int | None = None) -> Location:
    """Of the end of an epoch, or of so many steps into it."""
    within = "" if step is None else f"-step-{step:06d}"
    return locate(run / "checkpoints") / f"epoch-{epoch:04d}{within}"


def folders(run: Path) -> list[Location]:
    """Of all checkpoints, the oldest first; some may be half removed, or at a URI half written."""
    found = {}
    for folder in list_folders(locate(run / "checkpoints")):
        if name := NAME.fullmatch(folder.name):
            epoch, step = name.groups()
            found[int(epoch), step is None, int(step or 0)] = folder
    return [folder for _, folder in sorted(found.items())]


def checkpoints(run: Path) -> list[Location]:
    """All complete ones, the oldest first."""
    return [folder for folder in folders(run) if (folder / LAST).exists()]


def latest(run: Path) -> Location | None:
    """The newest complete checkpoint."""
    newest_first = reversed(folders(run))
    return next((folder for folder in newest_first if (folder / LAST).exists()), None)


@contextmanager
def new_checkpoint(final: Location) -> Iterator[Location]:
    """A folder to write a checkpoint into, which then is `final`; after an error nothing is left of it."""
    is_remote = isinstance(final, RemotePath)
    partial = final if is_remote else final.with_name(f".{final.name}.tmp")
    try:
        remove(partial)
        partial.mkdir(parents=True)
        yield partial
        if not is_remote:
            remove(final)
            os.replace(partial, final)
    except BaseException:
        with suppress(OSError):
            remove(partial)
        raise


def remove(folder: Location):
    """Its last file first: what is half removed is no checkpoint."""
    (folder / LAST).unlink(missing_ok=True)
    remove_folder(folder)


def place_of(checkpoints: str | None, model: Path) -> Location | None:
    """Where those of a model go that has the folder `model` in its run; None for there."""
    return None if checkpoints is None else reduce(truediv, model.parts, locate(checkpoints))


def place_checkpoints(run: Path, place: Location | None):
    """Have those of a run written to `place`, with its config.json beside them: a run of the same goes on from them.

    Raises InputError where the run has them elsewhere already, or `place` has those of another run, and OSError where it
    cannot be written to.
    """
    link, config = run / "checkpoints", run / "config.json"
    if place is None:
        return
    if link.exists():
        if (found := locate(link).resolve()) != place.resolve():
            raise InputError(
                f"{run} has its checkpoints at {found}: set training.checkpoints as it was, or choose another --out"
            )
        return
    beside = place / config.name
    if beside.exists() and beside.read_bytes() != config.read_bytes():
        raise InputError(
            f"training.checkpoints must be a place for this run, found {beside} of another: choose another place"
        )
    place.mkdir(parents=True, exist_ok=True)
    write_atomic(beside, config.read_bytes())
    link_to(link, place)


def link_to(link: Path, place: Location):
    """A symbolic link, or for what is not on this machine a file with its URI, which `locate` follows."""
    if isinstance(place, RemotePath):
        write_atomic(link, f"{place}\n".encode())
    else:
        link.symlink_to(os.path.relpath(place, link.parent))
