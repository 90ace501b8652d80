"""Sources of signals: one file per kind, and one function that opens them all."""

import logging
import os

from pipeline.config import SignalsConfig
from pipeline.errors import InputError
from pipeline.signals.analytic import (
    load_distances,
    load_occupancy,
    load_sines,
    load_waves,
    load_wide_waves,
)
from pipeline.signals.arrays import load_idx, load_npz
from pipeline.signals.digits import load_digits
from pipeline.signals.folder import load_folder
from pipeline.signals.function import check_signals, load_function
from pipeline.signals.labels import NO_LABEL
from pipeline.signals.operations import operated
from pipeline.signals.parquet import load_parquet
from pipeline.signals.signals import Signals, cell_centres, coordinates
from pipeline.signals.taken import on_one_line

__all__ = [
    "NO_LABEL",
    "Signals",
    "cell_centres",
    "check_signals",
    "coordinates",
    "load_signals",
    "operated",
]

MADE = {
    "digits": load_digits,
    "sines": load_sines,
    "waves": load_waves,
    "wide-waves": load_wide_waves,
    "distances": load_distances,
    "occupancy": load_occupancy,
}
READERS = {
    "folder": (load_folder, ("folder",)),
    "parquet": (load_parquet, ("folder", "file")),
    "idx": (load_idx, ("folder",)),
    "npz": (load_npz, ("file",)),
}
"""The function that reads a source, and what signals.path may be for it."""
SHOWN = 5
"""Number of unreadable signals that the warning names."""
logger = logging.getLogger(__name__)


def load_signals(config: SignalsConfig) -> Signals:
    """All signals of a source, after the operation; a warning says which cannot be read, and why.

    Raises InputError if the source cannot be read, or more than `config.max_unreadable` of its
    signals cannot.
    """
    if config.fact_columns and config.source != "parquet":
        raise InputError(
            f"signals.fact_columns names columns of Parquet files, which source {config.source!r} "
            "does not have: set it to []"
        )
    if config.is_function:
        signals = load_function(config.source, config.size)
    else:
        signals = MADE[config.source](config.size) if config.source in MADE else load_path(config)
    signals = signals if config.limit is None else signals.take(config.limit)
    if min(signals.grid) < 2:
        raise InputError(
            f"the signals of {signals.name} must have two points or more along each side, found a "
            f"grid {signals.grid}: set signals.size"
        )
    check_failures(signals, config.max_unreadable)
    return operated(signals, config.operation)


def check_failures(signals: Signals, max_unreadable: float):
    if not signals.failures:
        return
    shown = [f"{signals.called(i)} {reason}" for i, reason in signals.failures.items()][:SHOWN]
    number, total, named = len(signals.failures), len(signals), on_one_line("; ".join(shown))
    if number > len(shown):
        named += f"; and {number - len(shown):,} more"
    if number > max_unreadable * total:
        raise InputError(
            f"at most {max_unreadable:.0%} of the signals of {signals.name} may be unreadable, "
            f"found {number:,} of {total:,} ({named}): replace or remove them, or set "
            "signals.max_unreadable"
        )
    logger.warning(
        "%s of %s signals of %s cannot be read and are left out: %s",
        f"{number:,}",
        f"{total:,}",
        signals.name,
        named,
    )


def require_path(config: SignalsConfig):
    """Raises InputError if the source is read from somewhere and it is not said where."""
    if config.source in READERS and config.path is None:
        raise InputError(f"signals.path must say where source {config.source!r} is, got null")


def load_path(config: SignalsConfig) -> Signals:
    require_path(config)
    path, (load, kinds) = config.path, READERS[config.source]
    assert path is not None
    found = "folder" if os.path.isdir(path) else "file" if os.path.isfile(path) else None
    if found not in kinds:
        found = f"a {found}" if found else "none"
        raise InputError(
            f"signals.path must name a {' or '.join(kinds)} for source {config.source!r}, found "
            f"{found} at {path}"
        )
    return load(path, config)
