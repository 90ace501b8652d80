"""What a zoo holds, in a few figures."""

from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.archive import catalog
from pipeline.archive.zoo import Zoo

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


def summarize(zoo: Zoo) -> dict[str, Any]:
    """Counts, splits, PSNR quantiles in dB, size in bytes and provenance."""
    record, table = zoo.record, zoo.catalog
    psnr = table["psnr"].drop_null().to_numpy() if "psnr" in table.column_names else ()
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
        "stopped by": counts(table, "stop_reason"),
        "psnr": {f"{quantile:.0%}": round(float(np.quantile(psnr, quantile)), 2) for quantile in QUANTILES}
        if len(psnr)
        else {},
        "shards": len(record.shards),
        "bytes": size,
    }


def failures(zoo: Zoo) -> dict[str, int]:
    """How many members have no weights, by reason."""
    return counts(zoo.catalog.filter(pc.equal(zoo.catalog["status"], "failed")), "stop_reason")


def counts(table, name: str) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in pc.value_counts(table[name]).to_pylist()}
