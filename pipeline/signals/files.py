"""The files of a source: a folder's, and those below it."""

import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.signals.taken import Taken

MACOS = ("__macosx", "icon\r", "network trash folder", "temporary items")
WINDOWS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler")
SERVERS = ("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot")
SYSTEM = (*MACOS, *WINDOWS, *SERVERS, "system volume information", "found.000", "lost+found")
"""What macOS, Windows and file servers leave in folders, in lower case, beside names that begin with a dot."""


def find_files(root: Path, taken: Taken) -> list[Path]:
    """All files below a folder, sorted; hidden ones, empty folders and what cannot be read are left out.

    Links are followed after all that is no link, and each folder is read once: so links neither lead in circles nor take
    a folder twice.
    """
    files, folders, links, seen = [], [root], [], set()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = folder.stat()
            entries = sorted(folder.iterdir())
        except OSError as error:
            taken.leave_out(f"cannot be read: {error.strerror}", folder)
            continue
        if (status.st_dev, status.st_ino) in seen:
            taken.leave_out("the same folder as another", folder)
            continue
        seen.add((status.st_dev, status.st_ino))
        if not entries and folder != root:
            taken.leave_out("an empty folder", folder)
        for entry in entries:
            if entry.name.startswith(".") or entry.name.casefold() in SYSTEM:
                taken.leave_out("hidden", entry)
            elif os.path.isdir(entry):  # of pathlib's some raise where nothing may be asked
                (links if entry.is_symlink() else folders).append(entry)
            else:  # or what is called like one: a pipe, a link that leads nowhere
                files.append(entry)
    return sorted(files)


def only_suffixes(files: Iterable[Path], suffixes: Iterable[str], taken: Taken) -> list[Path]:
    """The files whose suffix, in upper or lower case, is one of those that are read."""
    suffixes, kept = frozenset(suffixes), []
    for file in files:
        suffix = file.suffix.lower()
        if suffix in suffixes:
            kept.append(file)
        else:
            taken.leave_out(f"{suffix or 'no suffix'} is not read", file)
    return kept


def without_copies(files: list[Path], taken: Taken) -> list[Path]:
    """The files without links to others of them."""
    seen, copies = set(), set()
    if any(map(os.path.islink, files)):
        for file in sorted(files, key=os.path.islink):
            target = os.path.realpath(file)
            if target in seen:
                copies.add(file)
                taken.leave_out("the same file as another", file)
            seen.add(target)
    return [file for file in files if file not in copies]
