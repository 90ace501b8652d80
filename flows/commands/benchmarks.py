"""The command that lists and runs benchmarks."""

import ast
import runpy
import sys
from argparse import Namespace
from pathlib import Path

from flows.versions import PACKAGE
from pipeline.errors import InputError


def bench(options: Namespace):
    """List the benchmarks, or run one, against a named reference in the same run."""
    root = Path(__file__).parents[2]
    if not is_checkout(root):
        raise InputError(
            f"benchmarks need the source: run them in a checkout of dwszoo, not from {root}"
        )
    benchmarks = sorted((root / "tests" / "bench").glob("[!_]*.py"))
    files = {file.stem: file for file in benchmarks if has_main(file)}
    if options.name is None:
        for name, file in files.items():
            what = ast.get_docstring(ast.parse(file.read_bytes())) or ""
            print(f"{name:<8} {what.splitlines()[0]}")
    elif options.name in files:
        sys.path.insert(0, str(root))
        sys.argv[1:] = options.arguments
        runpy.run_module(f"tests.bench.{options.name}", run_name="__main__")
    else:
        raise InputError(
            f"there is no benchmark {options.name!r}: expected one of {', '.join(files)}"
        )


def is_checkout(root: Path) -> bool:
    """Whether a folder is this project's source: elsewhere `tests` is somebody else's."""
    project = root / "pyproject.toml"
    return project.is_file() and f'name = "{PACKAGE}"' in project.read_text().splitlines()


def has_main(file: Path) -> bool:
    return b"__main__" in file.read_bytes()
