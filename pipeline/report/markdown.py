"""The results of a run in Markdown, for pages of other programs."""

import base64
import mimetypes
from pathlib import Path

from pipeline.report.models import model_table, models_of

MAX_BYTES = 200_000
"""Largest size of an embedded picture; larger ones are only in the report."""


def write_markdown(run: Path) -> str:
    """The report's table of models, a link to the report, and its pictures."""
    table = model_table(models_of(run))
    page = (run / "report" / "index.html").resolve()
    rows = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    lines += ["", f"The report: [{page}]({page.as_uri()})"]
    for file in sorted(page.parent.iterdir()):
        kind, _ = mimetypes.guess_type(file.name)
        if kind and kind.startswith("image/") and file.stat().st_size <= MAX_BYTES:
            lines += ["", f"![{file.stem}]({data_uri(file)})"]
    return "\n".join(lines)


def data_uri(picture: Path) -> str:
    """The picture itself, as a page may contain it."""
    kind, _ = mimetypes.guess_type(picture.name)
    return f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"
