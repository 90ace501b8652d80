"""Checkpoint folders: `checkpoints/epoch-NNNN/`, and `epoch-NNNN-step-NNNNNN/` within an epoch.

`checkpoints` is in the run folder: a folder, a link to one elsewhere, or a file with the URI of
one. A checkpoint is complete once it has its last file: a local folder is renamed when it is
complete, but object stores have no renames.
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
    """The folder of the checkpoint at the end of an epoch, or after `step` steps of it."""
    within = "" if step is None else f"-step-{step:06d}"
    return locate(run / "checkpoints") / f"epoch-{epoch:04d}{within}"


def folders(run: Path) -> list[Location]:
    """The folders of all checkpoints, oldest first, including any that are only partly removed or,
    at a URI, only partly written."""
    found = {}
    for folder in list_folders(locate(run / "checkpoints")):
        if name := NAME.fullmatch(folder.name):
            epoch, step = name.groups()
            found[int(epoch), step is None, int(step or 0)] = folder
    return [folder for _, folder in sorted(found.items())]


def checkpoints(run: Path) -> list[Location]:
    """The folders of all complete checkpoints, oldest first."""
    return [folder for folder in folders(run) if (folder / LAST).exists()]


def latest(run: Path) -> Location | None:
    """The folder of the newest complete checkpoint; None if there is none."""
    newest_first = reversed(folders(run))
    return next((folder for folder in newest_first if (folder / LAST).exists()), None)


@contextmanager
def new_checkpoint(final: Location) -> Iterator[Location]:
    """A folder to write a checkpoint to, which becomes `final`; an error leaves nothing behind."""
    is_local = isinstance(final, Path)
    partial = final.with_name(f".{final.name}.tmp") if isinstance(final, Path) else final
    try:
        remove(partial)
        partial.mkdir(parents=True)
        yield partial
        if is_local:
            remove(final)
            os.replace(str(partial), str(final))
    except BaseException:
        with suppress(OSError):
            remove(partial)
        raise


def remove(folder: Location):
    """Remove a checkpoint, its last file first, so that a partly removed one does not count."""
    (folder / LAST).unlink(missing_ok=True)
    remove_folder(folder)


def place_of(checkpoints: str | None, model: Path) -> Location | None:
    """Where the checkpoints of the model in the subfolder `model` of a run go; None: there."""
    return None if checkpoints is None else reduce(truediv, model.parts, locate(checkpoints))


def place_checkpoints(run: Path, place: Location | None):
    """Have the checkpoints of a run written to `place`, next to a copy of its config.json.

    A run with the same configuration resumes from them. Raises InputError if the run already has
    checkpoints elsewhere or `place` has those of another run, and OSError if it cannot be written.
    """
    link, config = run / "checkpoints", run / "config.json"
    if place is None:
        return
    if link.exists():
        if (found := locate(link).resolve()) != place.resolve():
            raise InputError(
                f"{run} has its checkpoints at {found}: "
                "undo the change of training.checkpoints, or choose another --out"
            )
        return
    beside = place / config.name
    if beside.exists() and beside.read_bytes() != config.read_bytes():
        raise InputError(
            f"training.checkpoints must be a place for this run, found {beside} of another run: "
            "choose another place"
        )
    place.mkdir(parents=True, exist_ok=True)
    write_atomic(beside, config.read_bytes())
    link_to(link, place)


def link_to(link: Path, place: Location):
    """Make a symbolic link to `place` or, for a URI, a file with it, which `locate` follows."""
    if isinstance(place, RemotePath):
        write_atomic(link, f"{place}\n".encode())
    else:
        link.symlink_to(os.path.relpath(place, link.parent))
