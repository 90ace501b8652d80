"""Folders for what lies beside the work: the caches of our kernels, of matplotlib, PyTorch and Triton."""

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
"""Variables that say where a cache is, and where in HOME it is without them."""
ROOM = 2**20
"""Bytes that there must be room for."""


@contextmanager
def usable_home() -> Iterator[None]:
    """For the length of the block HOME is a folder, and caches can be written: by this process and those that it starts.

    Where they cannot, or there is no HOME, a private temporary folder stands in. A HOME that can only be read stays what
    it is, for credentials are in it. Raises OSError where there is no temporary folder either.
    """
    home = os.path.expanduser("~")
    has_home = os.path.isabs(home) and os.path.isdir(home) and home != "/"
    if has_home:
        os.environ["HOME"] = home  # not all libraries ask the password file where it is not set
        if all(has_room(os.environ.get(name) or f"{home}/{CACHES[name]}") for name in CACHES):
            # PyTorch itself would leave it in TMPDIR, and makes it when a model is built.
            os.environ.setdefault(INDUCTOR, f"{home}/{CACHES[INDUCTOR]}")
            yield
            return
    with scratch_folder() as folder:
        os.environ |= dict.fromkeys(CACHES if has_home else [*CACHES, "HOME"], str(folder))
        yield


def has_room(folder: str) -> bool:
    """Whether files can be written to `folder`, or to the one that it would be made in."""
    place = next(filter(os.path.exists, (folder, *Path(folder).absolute().parents)))
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(ROOM))
    except OSError:
        return False
    return True
