"""What a zoo holds, in a few figures."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.archive import catalog
from pipeline.archive.zoo import Zoo

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


def summarize(zoo: Zoo) -> dict[str, Any]:
    """Counts, splits, PSNR quantiles in dB, size in bytes and provenance."""
    record, table = zoo.record, zoo.catalog
    grid = f", {'x'.join(map(str, record.signals.grid))}" if record.signals.grid else ""
    weights = [shape for name, shape in record.tensors.items() if name.endswith(".weight")]
    size = sum(
        path(zoo.folder, shard.name).stat().st_size
        for shard in record.shards
        for path in (catalog.shard_path, catalog.part_path)
    )
    return {
        "fingerprint": record.fingerprint,
        "signals": f"{record.signals.num_signals:,} of {record.signals.name}{grid}",
        "architecture": "-".join(map(str, (weights[0][1], *(shape[0] for shape in weights)))),
        "parameters": zoo.space.num_parameters,
        "members": len(table),
        "failed": sum(failures(zoo).values()),
        "splits": counts(table, "split"),
        "classes": by_class(zoo),
        "stopped by": counts(table, "stop_reason"),
        "psnr": quantiles(table, "psnr"),
        "psnr off grid": quantiles(table, "psnr_off_grid"),
        "shards": len(record.shards),
        "bytes": size,
    }


def by_class(zoo: Zoo) -> dict[str, dict[str, int]]:
    """Members of each class, by split; empty where none has a class."""
    names = dict(enumerate(zoo.record.signals.class_names))
    table = zoo.catalog.filter(pc.field("label").is_valid()) if "label" in zoo.catalog.column_names else zoo.catalog.slice(0, 0)
    found = {split: counts(table.filter(pc.field("split") == split), "label") for split in counts(table, "split")}
    return {split: {names.get(label, str(label)): labels[label] for label in sorted(labels)} for split, labels in found.items()}


def in_words(value: Any) -> str:
    """A figure, or several with their names, on one line."""
    if not isinstance(value, dict):
        return f"{value}"
    if any(isinstance(part, dict) for part in value.values()):
        return "; ".join(f"{name} ({in_words(part)})" for name, part in value.items())
    return ", ".join(f"{name}: {part}" for name, part in value.items())


def quantiles(table: pa.Table, name: str) -> dict[str, float]:
    """Of a column of numbers, by percent; empty where the zoo has none."""
    values = table[name].drop_null().to_numpy() if name in table.column_names else ()
    return {f"{part:.0%}": round(float(np.quantile(values, part)), 2) for part in QUANTILES} if len(values) else {}


def failures(zoo: Zoo) -> dict[str, int]:
    """How many members have no weights, by reason."""
    return counts(zoo.catalog.filter(pc.equal(zoo.catalog["status"], "failed")), "stop_reason")


def counts(table, name: str) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in pc.value_counts(table[name]).to_pylist()}
