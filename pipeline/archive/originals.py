"""The signals that a zoo was fitted to, read from their source."""

from collections.abc import Callable, Collection, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from pipeline.archive.growth import zoo_order
from pipeline.archive.record import ZooRecord
from pipeline.config import differences
from pipeline.errors import InputError
from pipeline.functions import modules_named
from pipeline.location import Location
from pipeline.signals import Signals, check_signals, load_signals, operated


def original_signals(
    zoo: Location,
    record: ZooRecord,
    source: Signals | Path | str | None = None,
    trusted: Collection[str] = (),
    names: Callable[[], Sequence[str | None]] | None = None,
) -> Signals:
    """The signals of a zoo, in its order.

    `source` is where they are, by default where zoo.json says, or the signals themselves. If the
    source has grown since, they are found by their names, which `names` returns. Raises InputError
    if they are not known, are missing, or are not those that were fitted.
    """
    signals, grown = read_source(zoo, record, source, trusted), record.origin.grown
    count = record.origin.signals.num_signals
    if names is not None and len(signals) > count:
        signals = signals.at(find_signals(zoo, signals, names(), count))
    elif grown and len(signals) == count:
        signals = signals.at(zoo_order(count, [growth.places for growth in grown]))
    require_same(zoo, record, signals)
    return signals


def read_source(
    zoo: Location,
    record: ZooRecord,
    source: Signals | Path | str | None = None,
    trusted: Collection[str] = (),
) -> Signals:
    """All signals in the source of a zoo now, in its order; raises like `original_signals`."""
    # Of Signals that are given, no code of the user is called.
    is_given = isinstance(source, Signals)
    why = why_unknown(record, modules_named(record.origin.config) if is_given else trusted)
    if why is not None:
        raise InputError(f"the signals of zoo {zoo} are not known: {why}")
    config = record.origin.fitted.signals
    if isinstance(source, Signals):
        signals = check_signals(config.source, source) if config.is_function else source
        signals = operated(signals, config.operation)
    else:
        if not isinstance(source, str | PathLike | None):
            raise InputError(
                f"the signals of zoo {zoo} must be given as Signals or as the path where they are, "
                f"found {type(source).__name__}"
            )
        if source is not None:
            config = config.model_copy(update={"path": Path(source)})
        if config.path is not None and not config.path.exists():
            raise InputError(
                f"the signals of zoo {zoo} must be at {config.path}, found nothing there: "
                "put them back, or say where they are now"
            )
        signals = load_signals(config)
    return signals


def find_signals(
    zoo: Location, signals: Signals, names: Sequence[str | None], count: int
) -> np.ndarray:
    """`(count,)` int64: the position of each signal of a zoo in its source.

    Signals without names are the first ones. Raises InputError if a signal is gone.
    """
    if signals.names is None or None in names:
        if len(signals) < count:
            raise InputError(
                f"the source of zoo {zoo} must still have its {count:,} signals, found "
                f"{len(signals):,}: put back what was there"
            )
        return np.arange(count)
    places = {name: place for place, name in enumerate(signals.names)}
    if gone := [name for name in names if name not in places]:
        others = f" and {len(gone) - 1:,} others" if len(gone) > 1 else ""
        raise InputError(
            f"the source of zoo {zoo} must still have {gone[0]}{others}, found none: put back what "
            "was there" + (f"; taken: {signals.taken}" if signals.taken else "")
        )
    return np.array([places[name] for name in names if name], np.int64)


def why_unknown(record: ZooRecord, trusted: Collection[str]) -> str | None:
    """Why signals cannot be read: zoo.json has no source, or untrusted code as one; else None."""
    if record.origin.merged:
        return "the zoo was merged; only the zoos it was merged from record them"
    if record.origin.imported:
        return "the zoo was imported"
    signals = record.origin.fitted.signals
    if signals.module is None or signals.module in trusted:
        return None
    return (
        f"they are made by {signals.source}, code that is run only with `--trust {signals.module}`"
    )


def require_same(zoo: Location, record: ZooRecord, signals: Signals):
    """Raises InputError, saying what differs, if these are not the signals that were fitted."""
    digest, known = signals.digest(), record.signals
    if digest == known.digest:
        return
    names = ("grid", "num_channels", "class_names")
    was = {"num_signals": known.num_signals} | {name: getattr(known, name) for name in names}
    found = {"num_signals": len(signals)} | {name: getattr(signals, name) for name in names}
    what = differences(was, found) or [
        f"values, labels, splits or facts: their digest was {known.digest}, is {digest}"
    ]
    raise InputError(
        f"the signals of zoo {zoo} have changed since it was built ({'; '.join(what)}): "
        "put the originals back"
    )
