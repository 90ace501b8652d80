"""The results of a run in Markdown, for pages of other programs."""

import base64
import mimetypes
from pathlib import Path

from pipeline.figures.picture import KINDS
from pipeline.report.models import model_table, models_of

MAX_BYTES = 200_000
"""Largest size in bytes of an embedded figure; larger ones are only in the report."""


def write_markdown(run: Path) -> str:
    """The report's table of models, a link to the report, and its figures."""
    table = model_table(models_of(run))
    page = (run / "report" / "index.html").resolve()
    rows = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    lines += ["", f"The report: [{page}]({page.as_uri()})"]
    drawn = [file for kind in KINDS for file in page.parent.glob(f"*.{kind}")]
    smallest = {file.stem: file for file in sorted(drawn, key=size_of, reverse=True)}
    for name, file in sorted(smallest.items()):
        if size_of(file) <= MAX_BYTES:
            lines += ["", f"![{name}]({data_uri(file)})"]
    return "\n".join(lines)


def size_of(file: Path) -> int:
    return file.stat().st_size


def data_uri(picture: Path) -> str:
    """The picture itself, as a page may contain it."""
    kind, _ = mimetypes.guess_type(picture.name)
    return f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"
