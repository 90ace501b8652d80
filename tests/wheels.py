"""Wheels installed where nothing else of ours is, used from a folder with names like ours."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = ("cluster", "dwsnet", "flows", "pipeline")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
TRAP = "raise RuntimeError('imported from the working directory')"


def build(folder: Path) -> list[Path]:
    """The wheels of both distributions, built from a copy of the source."""
    source, wheels = folder / "source", folder / "wheels"
    for name in OURS:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("LICENSE", "README.md", "dwszoo.py", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    builds = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, wheels],
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for place in (source, source / "dwsnet")
    ]
    for process in builds:
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 0, output
    return sorted(wheels.glob("*.whl"))


def install(wheel: Path, folder: Path) -> Path:
    """The bin of a virtual environment with a wheel and all that this interpreter has installed."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = ["-m", "pip", "--disable-pip-version-check", "--python", str(python), "install"]
    quietly = ["--quiet", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, *pip, *quietly, str(wheel)], check=True, timeout=100)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Only the folder: an editable installation in it takes no part, as its .pth file is not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def folder_of_traps(folder: Path) -> Path:
    """Make a working directory whose files have the names of our packages."""
    for name in (
        "cluster.py",
        "pipeline.py",
        "dwsnet.py",
        "flows/__init__.py",
        "tests/__init__.py",
    ):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TRAP)
    (folder / "tests" / "bench").mkdir()
    (folder / "tests" / "bench" / "fit.py").write_text(f"{TRAP}  # __main__")
    return folder


def environment(**more: str) -> dict[str, str]:
    """The environment of this process without PYTHONPATH."""
    return {name: text for name, text in os.environ.items() if name != "PYTHONPATH"} | more
