"""A zoo in a few figures."""

from collections.abc import Callable
from typing import Any
from unicodedata import bidirectional, category

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive.files import list_files
from pipeline.archive.growing import read_growing
from pipeline.archive.zoo import Zoo

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
MEASURES = {"psnr": "psnr", "psnr_off_grid": "psnr off grid"} | {
    f"{split}_accuracy": f"{split} accuracy" for split in ("train", "validation", "test")
}
"""Columns that say how good members are, with their titles."""
CONTROL, BIDI = ("Cc", "Cs", "Cn"), ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Characters that XML, fonts or terminals do not take as text, and that reverse text direction."""
UNSHOWN = "\N{REPLACEMENT CHARACTER}"


def summarize(zoo: Zoo) -> dict[str, Any]:
    """Counts, splits, quantiles of PSNR in dB or of accuracy, size in bytes and provenance."""
    record, table = zoo.record, zoo.catalog
    grid = f", {'x'.join(map(str, record.signals.grid))}" if record.signals.grid else ""
    files = list_files(zoo.folder / "shards") | list_files(zoo.folder / "catalog")
    names, growing = {shard.name for shard in zoo.shards}, read_growing(zoo.folder)
    return {
        "fingerprint": record.fingerprint,
        "state": zoo.state,
        **({"growing": f"to {growing.zoo.num_members:,} members"} if growing else {}),
        **({"times grown": len(record.grown)} if record.grown else {}),
        **({"edited from": f"zoo {record.edited.fingerprint}"} if record.edited else {}),
        "signals": f"{record.signals.num_signals:,} of {record.signals.name}{grid}",
        **({"unreadable": len(unreadable)} if (unreadable := record.signals.unreadable) else {}),
        "architecture": record.architecture,
        "activation": record.decode.activation_in_words,
        "parameters": zoo.space.num_parameters,
        **(
            {"runs": pc.count_distinct(table["run"]).as_py()} if "run" in table.column_names else {}
        ),
        "members": len(table),
        "failed": sum(failures(zoo).values()),
        "splits": counts(table, "split"),
        "classes": by_class(zoo),
        "stopped by": counts(table, "stop_reason"),
        **{
            title: quantiles(table, name)
            for name, title in MEASURES.items()
            if name in table.column_names
        },
        "facts": {name: quantiles(table, name) for name in record.facts},
        "shards": len(zoo.shards),
        "bytes": sum(size for file, size in files.items() if file.name.partition(".")[0] in names),
    }


def by_class(zoo: Zoo) -> dict[str, dict[str, int]]:
    """Members of each class, by split; empty if no member has a class."""
    names = dict(enumerate(zoo.record.signals.class_names))
    table = (
        zoo.catalog.filter(pc.field("label").is_valid())
        if "label" in zoo.catalog.column_names
        else zoo.catalog.slice(0, 0)
    )
    found = {
        split: counts(table.filter(pc.field("split") == split), "label")
        for split in counts(table, "split")
    }
    return {
        split: {names.get(label, str(label)): labels[label] for label in sorted(labels)}
        for split, labels in found.items()
    }


def shown(name: str) -> str:
    """A name on one line, with control and bidirectional characters replaced by `UNSHOWN`."""
    line = " ".join(name.split())
    hidden = [category(c) in CONTROL or bidirectional(c) in BIDI for c in line]
    return "".join(UNSHOWN if hides else c for c, hides in zip(line, hidden, strict=True))


def in_words(value: Any, show: Callable[[str], str] = shown) -> str:
    """A value, or several with their names, on one line."""
    if not isinstance(value, dict):
        return f"{value}"
    if any(isinstance(part, dict) for part in value.values()):
        return "; ".join(f"{name} ({in_words(part, show)})" for name, part in value.items())
    return ", ".join(f"{show(str(name))}: {part}" for name, part in value.items())


def quantiles(table: pa.Table, name: str) -> dict[str, float]:
    """Quantiles of the finite numbers in a column, by percent; empty if there are none."""
    values = table[name].drop_null().to_numpy()
    values = values[np.isfinite(values)]
    digits = 4 if name.endswith("accuracy") else 2
    return (
        {f"{part:.0%}": round(float(np.quantile(values, part)), digits) for part in QUANTILES}
        if len(values)
        else {}
    )


def failures(zoo: Zoo) -> dict[str, int]:
    """Number of members without weights, by reason."""
    return counts(zoo.catalog.filter(pc.equal(zoo.catalog["status"], "failed")), "stop_reason")


def counts(table, name: str) -> dict[Any, int]:
    return {row["values"]: row["counts"] for row in pc.value_counts(table[name]).to_pylist()}
