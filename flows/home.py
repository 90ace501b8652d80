"""Cache folders: for our kernels, matplotlib, PyTorch and Triton."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.scratch import scratch_folder

INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"
CACHES = {
    "XDG_CACHE_HOME": ".cache",
    "MPLCONFIGDIR": ".config/matplotlib",
    "TRITON_HOME": ".",
    INDUCTOR: ".cache/torchinductor",
}
"""Environment variables for caches, and the folders in HOME that are used without them."""
ROOM = 2**20
"""Bytes that must be writable."""


@contextmanager
def usable_home() -> Iterator[None]:
    """In the block, HOME is a folder and caches are writable, for this process and its children.

    If there is no HOME, or caches cannot be written, a private temporary folder takes their place.
    A read-only HOME is kept, because it has credentials. Raises OSError if there is no temporary
    folder either.
    """
    home = os.path.expanduser("~")
    has_home = os.path.isabs(home) and os.path.isdir(home) and home != "/"
    if has_home:
        os.environ["HOME"] = home  # if it is not set, not all libraries ask the password file
        if all(has_room(os.environ.get(name) or f"{home}/{CACHES[name]}") for name in CACHES):
            # By default PyTorch creates it in TMPDIR, already when a model is built.
            os.environ.setdefault(INDUCTOR, f"{home}/{CACHES[INDUCTOR]}")
            yield
            return
    with scratch_folder() as folder:
        os.environ |= dict.fromkeys(CACHES if has_home else [*CACHES, "HOME"], str(folder))
        yield


def has_room(folder: str) -> bool:
    """Whether files can be written to `folder`, or to the folder that it would be created in."""
    place = next(
        path
        for path in (folder, *map(str, Path(folder).absolute().parents))
        if os.path.exists(path)
    )
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(ROOM))
    except OSError:
        return False
    return True
