"""A table in Markdown with the rows of one run after another."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pipeline.archive.files import exclusive

Row = tuple[str, ...]


def print_table(
    header: Row,
    names: Sequence[str],
    rows: Callable[[str, Path], Iterable[Row]],
    folder: str,
):
    """Print `rows(name, folder / name)` for each name, as soon as they are there."""
    print(f"| {' | '.join(header)} |\n|{' -- |' * len(header)}", flush=True)
    for name in names:
        run = Path(folder) / name
        with exclusive(run):
            for row in rows(name, run):
                print(f"| {' | '.join(row)} |", flush=True)
