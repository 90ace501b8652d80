"""The history of a zoo that has grown: a chain of records, each with the fingerprint before it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from pipeline.config import AnyOrigin, Frozen, ZooConfig, fingerprint

Stretches = tuple[tuple[NonNegativeInt, NonNegativeInt], ...]
"""Ranges of positions, in order: (start, stop)."""


class Growth(Frozen):
    """One growth of a zoo: what it was before, and where the new signals were in its source."""

    fingerprint: str
    """Fingerprint of the zoo before."""
    views: PositiveInt
    """INRs per signal before."""
    num_signals: PositiveInt
    """Number of signals before; the new ones follow them in the order of the zoo."""
    digest: str
    """`Signals.digest` of the signals before."""
    places: Stretches
    """Where the new signals were in the source, as it was then."""


def identity_of(config: AnyOrigin, digest: str, grown: Sequence[Growth] = ()) -> dict[str, Any]:
    """What the fingerprint of a zoo is computed from; includes the last one if it has grown."""
    before = {"grown from": grown[-1].fingerprint} if grown else {}
    return config.identity() | {"signals digest": digest} | before


def check_chain(config: AnyOrigin, digest: str, num_signals: int, grown: Sequence[Growth]):
    """Raises ValueError if the history of a zoo does not lead to what it is now."""
    if grown and config.kind != "inrs":
        raise ValueError("only a zoo of INRs can have grown")
    for place, growth in enumerate(grown):
        before = config.model_copy(update={"views": growth.views})
        found = fingerprint(identity_of(before, growth.digest, grown[:place]))
        if growth.fingerprint != found:
            raise ValueError(
                f"grown.{place} must have fingerprint {found}, found {growth.fingerprint}"
            )
        assert isinstance(config, ZooConfig)
        after = [(later.views, later.num_signals) for later in grown[place + 1 :]]
        views, total = (*after, (config.views, num_signals))[0]
        ends = [0, *(end for stretch in growth.places for end in stretch), total]
        added = sum(stop - start for start, stop in growth.places)
        is_larger = growth.views <= views and growth.num_signals + added == total
        if not is_larger or any(start > stop for start, stop in pairwise(ends)):
            raise ValueError(f"grown.{place} must lead to {total} signals of {views} views each")


def stretches(chosen: np.ndarray) -> Stretches:
    """The ranges in which a mask `(signals,)` is true."""
    edges = np.flatnonzero(np.diff(chosen.astype(np.int8), prepend=0, append=0))
    return tuple((start, stop) for start, stop in edges.reshape(-1, 2).tolist())


def zoo_order(count: int, places: Sequence[Stretches]) -> np.ndarray:
    """`(count,)` int64: where each signal of a zoo was in its source when the zoo last grew.

    `places` are the positions of the new signals, for each time that it grew.
    """
    left, added = np.arange(count), list[np.ndarray]()
    for new in reversed(places):
        came = np.zeros(len(left), bool)
        for start, stop in new:
            came[start:stop] = True
        added.insert(0, left[came])
        left = left[~came]
    return np.concatenate([left, *added])
