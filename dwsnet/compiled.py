"""C++ of ours: built at first use for the machine it runs on, kept in the user's cache."""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
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

logger = logging.getLogger(__name__)


@cache
def load_library(source: Path, consequence: str, *flags: str) -> ctypes.CDLL | None:
    """The library built from `source`, or None after one warning, which begins with what follows from going without it."""
    try:
        return ctypes.CDLL(str(_build(_compiler(), source, [*FLAGS, *flags])))
    except (OSError, subprocess.SubprocessError) as problem:
        reason = (
            problem.stderr.strip()
            if isinstance(problem, subprocess.CalledProcessError)
            else problem
        )
        logger.warning(
            "%s, for the compiled kernel could not be built: %s. Install a C++ compiler (GCC 10 or Clang 10 or newer: "
            "`apt install g++`, `dnf install gcc-c++`, `xcode-select --install`, `conda install cxx-compiler`).",
            consequence,
            reason,
        )
        return None


def _compiler() -> str:
    for name in COMPILERS:
        if path := shutil.which(name):
            return path
    raise FileNotFoundError(f"none of {', '.join(COMPILERS)} is on the PATH")


def _build(compiler: str, source: Path, flags: list[str]) -> Path:
    """The library in the user's cache, built if it is not there yet.

    Its name is a digest of the source, the headers beside it, the flags and all that the compiler defines here (its
    version, the machine's instructions), so that machines of several kinds may share the folder. Whoever builds at the same
    time builds the same.
    """
    command = [compiler, *flags]
    defines = subprocess.run(
        [*command, "-dM", "-E", "-x", "c++", os.devnull], check=True, capture_output=True, text=True
    )
    content = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    digest = hashlib.sha256(
        b"".join(content) + repr(flags).encode() + defines.stdout.encode()
    ).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dwszoo"
    library = folder / f"{source.stem}-{digest[:16]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / library.name
            subprocess.run(
                [*command, str(source), "-o", str(built)],
                check=True,
                capture_output=True,
                text=True,
            )
            built.replace(library)
    return library
