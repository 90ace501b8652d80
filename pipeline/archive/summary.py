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
    psnr = table["psnr"].drop_null().to_numpy()
    size = sum(
        path(zoo.folder, shard.name).stat().st_size
        for shard in record.shards
        for path in (catalog.shard_path, catalog.part_path)
    )
    return {
        "fingerprint": record.fingerprint,
        "signals": f"{record.signals.num_signals:,} of {record.signals.name}, {'x'.join(map(str, record.signals.grid))}",
        "architecture": "-".join(map(str, (len(record.signals.grid), *record.config.inr.hidden, record.signals.num_channels))),
        "parameters": zoo.space.num_parameters,
        "members": len(table),
        "failed": int(pc.sum(pc.equal(table["status"], "failed")).as_py()),
        "splits": counts(table, "split"),
        "stopped by": counts(table, "stop_reason"),
        "psnr": {f"{quantile:.0%}": round(float(np.quantile(psnr, quantile)), 2) for quantile in QUANTILES}
        if len(psnr)
        else {},
        "shards": len(record.shards),
        "bytes": size,
    }


def counts(table, name: str) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in pc.value_counts(table[name]).to_pylist()}
