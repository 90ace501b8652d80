"""The command that lists and runs benchmarks."""

import ast
import runpy
import sys
from argparse import Namespace
from pathlib import Path

from pipeline.errors import InputError


def bench(options: Namespace):
    """List the benchmarks, or run one, against a named reference in the same run."""
    root = Path(__file__).parents[2]
    files = {
        file.stem: file
        for file in sorted((root / "tests" / "bench").glob("[!_]*.py"))
        if has_main(file)
    }
    if not files:
        raise InputError(
            f"benchmarks come with the source: expected {root / 'tests' / 'bench'}, found none"
        )
    if options.name is None:
        for name, file in files.items():
            print(f"{name:<8} {ast.get_docstring(ast.parse(file.read_bytes())).splitlines()[0]}")
    elif options.name in files:
        sys.path.insert(0, str(root))
        sys.argv[1:] = options.arguments
        runpy.run_module(f"tests.bench.{options.name}", run_name="__main__")
    else:
        raise InputError(
            f"there is no benchmark {options.name!r}: expected one of {', '.join(files)}"
        )


def has_main(file: Path) -> bool:
    return b"__main__" in file.read_bytes()
