"""Finds the files of a source, in a folder and below."""

import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.signals.taken import Taken

MACOS = ("__macosx", "icon\r", "network trash folder", "temporary items")
WINDOWS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler")
SERVERS = ("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot")
SYSTEM = (*MACOS, *WINDOWS, *SERVERS, "system volume information", "found.000", "lost+found")
"""Lower-case names of files that macOS, Windows and file servers create, besides dot files."""


def find_files(root: Path, taken: Taken) -> list[Path]:
    """All files below a folder, sorted, without hidden ones, empty folders and unreadable folders.

    Links are followed last and each folder is read once, so links cause neither cycles nor repeats.
    """
    files, folders, links, seen = list[Path](), [root], list[Path](), set()
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
            elif os.path.isdir(entry):  # pathlib's is_dir may raise without permission
                (links if entry.is_symlink() else folders).append(entry)
            else:  # or a pipe, or a broken link
                files.append(entry)
    return sorted(files)


def only_suffixes(files: Iterable[Path], suffixes: Iterable[str], taken: Taken) -> list[Path]:
    """The files with one of these suffixes, in upper or lower case."""
    suffixes, kept = frozenset(suffixes), []
    for file in files:
        suffix = file.suffix.lower()
        if suffix in suffixes:
            kept.append(file)
        else:
            taken.leave_out(f"{suffix or 'no suffix'} is not read", file)
    return kept


def without_copies(files: list[Path], taken: Taken) -> list[Path]:
    """The files, without links to others of them."""
    seen, copies = set(), set()
    if any(map(os.path.islink, files)):
        for file in sorted(files, key=os.path.islink):
            target = os.path.realpath(file)
            if target in seen:
                copies.add(file)
                taken.leave_out("the same file as another", file)
            seen.add(target)
    return [file for file in files if file not in copies]
