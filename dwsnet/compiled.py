"""C++ of ours: built at first use for the machine it runs on, kept in the user's cache."""

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
    """There is no compiler, or it cannot compile."""


@cache
def load_library(source: Path, consequence: str, *flags: str) -> ctypes.CDLL | None:
    """The library built from `source`, or None after one warning, which begins with what follows from going without it."""
    try:
        return _load(source, [*FLAGS, *flags])
    except CompilerError as error:
        reason, remedy = error, NEEDS_COMPILER
    except OSError as error:
        reason, remedy = error, NEEDS_FOLDER
    logger.warning(
        "%s, for the compiled kernel could not be built: %s. %s", consequence, reason, remedy
    )
    return None


def _load(source: Path, flags: list[str]) -> ctypes.CDLL:
    """The library from the user's cache, or built; this process alone has it where the cache cannot take it.

    Its name is a digest of the source, the headers beside it, the flags and all that the compiler defines here (its
    version, the machine's instructions), so that machines of several kinds may share the folder. Whoever builds at the same
    time builds the same.
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
        return ctypes.CDLL(str(built))  # a library that is loaded does not need its file any more


def _compiler() -> str:
    for name in COMPILERS:
        if path := shutil.which(name):
            return path
    raise CompilerError(f"none of {', '.join(COMPILERS)} is on the PATH")


def _run(command: list[str]) -> str:
    """What the compiler writes. Raises OSError where a folder is what it lacks, CompilerError where it fails otherwise."""
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
    """Raises OSError where there is none that the user can write to and nobody else can."""
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
    """A copy in the user's cache, which appears there whole or not at all."""
    kept = _cache_folder() / built.name
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        Path(shutil.copy(built, scratch)).replace(kept)
    return kept
