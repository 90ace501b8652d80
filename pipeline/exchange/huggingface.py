"""A Hugging Face dataset folder: what the Hub shows, and `datasets` and `webdataset` load.

`catalog/SPLIT.parquet` has the rows of the members with weights, which the Hub shows and
`datasets` loads by the name of the folder. `weights/SPLIT-NNNNNN.tar` has the same members in the
same order, one per sample as in `webdataset.py`. `README.md` is the dataset card.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from pipeline.archive.plan import SPLITS
from pipeline.archive.summary import shown
from pipeline.archive.zoo import Zoo
from pipeline.exchange import webdataset
from pipeline.exchange.outgoing import exported_columns, num_exported
from pipeline.exchange.source import Source
from pipeline.progress import Advance

CARD, PICTURE, WEIGHTS, CATALOG = "README.md", "members.png", "weights", "catalog"
TYPES = {"halffloat": "float16", "float": "float32", "double": "float64"}
"""Names of Arrow types in `datasets`, if they differ."""
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))
"""The Hub's names of sizes, by the first number of members that is too large for one."""


def write(zoo: Zoo, out: Path, advance: Advance):
    from pipeline.figures.zoo import picture_of  # slow to import, and needed only here

    for folder in (WEIGHTS, CATALOG):
        (out / folder).mkdir()
    # `datasets` infers types from the first samples' .json, and has none for all of uint64.
    webdataset.write(zoo, out / WEIGHTS, advance, row_kind="jsonl")
    tables = {split: table for split, table in catalogs(zoo) if len(table)}
    for split, table in tables.items():
        pq.write_table(table, out / CATALOG / f"{split}.parquet", compression="zstd")
    picture = picture_of(zoo, with_originals=False)
    picture.draw(zoo, out / PICTURE)
    (out / CARD).write_text(card(zoo, tables, picture.text), encoding="utf-8")


def read(path: Path) -> Source:
    """Open a folder that `write` wrote, by its tars."""
    return webdataset.read(path / WEIGHTS)


def catalogs(zoo: Zoo) -> Iterator[tuple[str, pa.Table]]:
    """The exported rows of each split, in plan order."""
    for split in SPLITS:
        yield split, zoo.members(split).select(exported_columns(zoo))


def card(zoo: Zoo, tables: dict[str, pa.Table], what_is_drawn: str) -> str:
    """The dataset card: YAML that the Hub and `datasets` read, then text."""
    table, record, count = pa.concat_tables(tables.values()), zoo.record, num_exported(zoo)
    split = next(iter(tables))
    last_tar = (len(tables[split]) - 1) // webdataset.MEMBERS
    return card_template("pipeline.exchange").render(
        name=shown(record.signals.name),
        architecture=record.architecture,
        num_parameters=zoo.space.num_parameters,
        tensors={spec.name: spec.shape for spec in zoo.space.tensors},
        decode=record.decode.model_dump(mode="json", exclude_none=True),
        size=next((name for limit, name in SIZES if count < limit), "n>1M"),
        num_members=count,
        num_failed=len(zoo) - count,
        splits={split: len(table) for split, table in tables.items()},
        split=split,
        tars=f"{WEIGHTS}/{split}-{{000000..{last_tar:06d}}}.tar",
        types={field.name: TYPES.get(str(field.type), str(field.type)) for field in table.schema},
        meanings={
            field.name: (field.metadata or {}).get(b"doc", b"").decode() for field in record.schema
        },
        class_names=class_names(zoo, table),
        picture=PICTURE,
        what_is_drawn=what_is_drawn,
    )


def card_template(package: str) -> Template:
    """The template of a card, `card.md` of a package."""
    environment = Environment(
        loader=PackageLoader(package, "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md")


def class_names(zoo: Zoo, table: pa.Table) -> list[str]:
    """The names of the classes as `datasets` takes them: unique, one for every label. Or none."""
    names = [shown(name) for name in zoo.record.class_names]
    if "label" not in table.column_names or len(set(names)) < len(names):
        return []
    labels = table["label"].drop_null().unique().to_pylist()
    return names if set(labels) <= set(range(len(names))) else []
