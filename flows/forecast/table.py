"""A forecast as a table and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from flows.forecast.forecast import Forecast

UNITS = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}


def as_json(forecast: Forecast) -> dict[str, Any]:
    unit = forecast.unit.replace("-", "_")
    return {
        "out": str(forecast.out),
        "resources": forecast.resources.model_dump(mode="json"),
        "parts": [asdict(part) | {unit: forecast.hours(part)} for part in forecast.parts],
        "seconds": forecast.seconds,
        "bytes": forecast.bytes,
        unit: sum(map(forecast.hours, forecast.parts)),
        "lacking": list(forecast.lacking),
    }


def lines(forecast: Forecast) -> Iterator[str]:
    """The lines of a table, then a line for each missing resource."""
    hours, workers = sum(map(forecast.hours, forecast.parts)), forecast.resources.workers
    on = f" on {forecast.at_once} cores" if forecast.at_once < workers else ""
    rows = [("", "what", "there", "disk", "time", forecast.unit)]
    for part in forecast.parts:
        numbers = disk(part.bytes), time(part.seconds), amount(forecast.hours(part))
        rows.append((part.title, part.what, part.there or "nothing", *numbers))
    rows.append(("the rest", "to start, to score, to report", "", "", time(forecast.around), ""))
    numbers = disk(forecast.bytes), time(forecast.seconds), amount(hours)
    models = f", {forecast.groups} models at a time" if forecast.groups > 1 else ""
    rows.append(("total", f"by {workers} workers{on}{models}", "", *numbers))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        words = [*map(str.ljust, row[:3], widths[:3]), *map(str.rjust, row[3:], widths[3:])]
        yield "  ".join(words).rstrip()
    yield from (f"lacking: {sentence}" for sentence in forecast.lacking)


def disk(size: float) -> str:
    if not size:
        return ""
    unit = next((unit for unit, least in UNITS.items() if size >= least), "kB")
    number = size / UNITS[unit]
    return f"{number:,.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"


def time(seconds: float) -> str:
    """A duration in a suitable unit; empty for 0."""
    if not seconds:
        return ""
    if seconds < 200:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.0f} d"


def amount(hours: float) -> str:
    """Hours with three digits; empty for 0."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}" if hours else ""
