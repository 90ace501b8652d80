"""Our C++ code, built at first use for the machine it runs on and kept in the user's cache."""

import ctypes
import errno
import hashlib
import logging
import os
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

FLAGS = (
    "-std=c++2a",
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-shared",
    "-fPIC",
)
COMPILERS = ("c++", "g++", "clang++")
NEEDS_COMPILER = (
    "Install a C++ compiler (GCC 10 or Clang 10 or newer: `apt install g++`, "
    "`dnf install gcc-c++`, `xcode-select --install`, `conda install cxx-compiler`)."
)
NEEDS_FOLDER = (
    "Set TMPDIR or XDG_CACHE_HOME to a folder that has room and that libraries can be loaded from."
)
FOLDER_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

logger = logging.getLogger(__name__)


class CompilerError(Exception):
    """There is no compiler, or it fails."""


@cache
def load_library(source: Path, consequence: str, *flags: str) -> ctypes.CDLL | None:
    """The library built from `source`, or None after one warning that starts with `consequence`."""
    try:
        return _load(source, [*FLAGS, *flags])
    except CompilerError as error:
        reason, remedy = str(error), NEEDS_COMPILER
    except OSError as error:
        reason, remedy = str(error), NEEDS_FOLDER
    logger.warning(
        "%s, because the compiled kernel could not be built: %s. %s", consequence, reason, remedy
    )
    return None


def _load(source: Path, flags: list[str]) -> ctypes.CDLL:
    """Load the library from the user's cache, or build it into it.

    Without a cache, only this process has the library. Its name is a digest of the source, the
    headers beside it, the flags and the compiler's predefined macros (its version, the machine's
    instructions), so that different machines can share the folder. Processes that build it at the
    same time build the same file.
    """
    command = [_compiler(), *flags]
    defines = _run([*command, "-dM", "-E", "-x", "c++", os.devnull])
    content = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    digest = hashlib.sha256(b"".join(content) + repr(flags).encode() + defines.encode()).hexdigest()
    name = f"{source.stem}-{digest[:16]}.so"
    with suppress(OSError):
        return ctypes.CDLL(str(_cache_folder() / name))
    with tempfile.TemporaryDirectory(prefix="dwsnet-") as scratch:
        built = Path(scratch) / name
        _run([*command, str(source), "-o", str(built)])
        with suppress(OSError):
            return ctypes.CDLL(str(_keep(built)))
        return ctypes.CDLL(str(built))  # a loaded library no longer needs its file


def _compiler() -> str:
    for name in COMPILERS:
        if path := shutil.which(name):
            return path
    raise CompilerError(f"none of {', '.join(COMPILERS)} is on the PATH")


def _run(command: list[str]) -> str:
    """Run the compiler and return its output.

    Raises OSError if a folder is the problem, CompilerError for other failures.
    """
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | {"LC_ALL": "C"},
        )
    except OSError as error:
        raise CompilerError(error) from error
    if result.returncode:
        problem = result.stderr.strip() or f"{command[0]} ended with {result.returncode}"
        about_folders = any(os.strerror(number) in problem for number in FOLDER_ERRORS)
        raise OSError(problem) if about_folders else CompilerError(problem)
    return result.stdout


def _cache_folder() -> Path:
    """The cache folder. Raises OSError unless the user, and nobody else, can write to it."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dwszoo"
    except RuntimeError as error:
        raise FileNotFoundError(error) from error
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
        raise PermissionError(errno.EPERM, "others can write to it", str(folder))
    return folder


def _keep(built: Path) -> Path:
    """Copy atomically into the user's cache."""
    kept = _cache_folder() / built.name
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        Path(shutil.copy(built, scratch)).replace(kept)
    return kept
