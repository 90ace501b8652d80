"""Distributions of hyperparameters: a list, 'uniform(0, 0.5)' or 'loguniform(1e-4, 1e-1)'."""

import math
import re
from collections.abc import Sequence
from typing import Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

RANGE = re.compile(
    r"(?P<kind>uniform|loguniform)\(\s*(?P<low>[^,()]+?)\s*,\s*(?P<high>[^,()]+?)\s*\)"
)

LARGEST = 1e30
"""The largest number in a configuration: networks compute in float32, which ends at 3.4e38."""


def distribution(
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
):
    """A validator for distributions within bounds: a number, a list of numbers, or a range."""
    if most is None and below is None:
        most = LARGEST
    limits = {"above": above, "at least": least, "below": below, "at most": most}
    bounds = " and ".join(
        f"{name} {bound:g}" for name, bound in limits.items() if bound is not None
    )

    def within(number: float) -> bool:
        return (
            (above is None or number > above)
            and (least is None or number >= least)
            and (below is None or number < below)
            and (most is None or number <= most)
        )

    def check(value: Any) -> tuple[float, ...] | str:
        numbers = ends(value)
        if not numbers or not all(map(within, numbers)):
            raise PydanticCustomError(
                "distribution",
                "input should be a number, a list of numbers, 'uniform(a, b)' or 'loguniform(a, "
                f"b)', {bounds}",
            )
        return value if isinstance(value, str) else numbers

    return PlainValidator(check)


def ends(value: Any) -> tuple[float, ...]:
    """The numbers of a list, or the two ends of a range; empty if `value` is not a distribution."""
    if isinstance(value, str):
        match = RANGE.fullmatch(value)
        if match is None:
            return ()
        try:
            low, high = float(match["low"]), float(match["high"])
        except ValueError:
            return ()
        is_range = low <= high < math.inf and (low > 0 or match["kind"] == "uniform")
        return (low, high) if is_range else ()
    numbers = value if isinstance(value, list | tuple) else [value]
    plain = all(
        isinstance(number, int | float) and math.isfinite(number) and not isinstance(number, bool)
        for number in numbers
    )
    return tuple(map(float, numbers)) if plain else ()


def draw(distribution: Sequence[Any] | str, share: float) -> Any:
    """The quantile of a distribution at `share`, in [0, 1): a uniform `share` samples from it."""
    if not isinstance(distribution, str):
        return distribution[int(share * len(distribution))]
    low, high = ends(distribution)
    return (
        low * (high / low) ** share
        if distribution.startswith("log")
        else low + (high - low) * share
    )
