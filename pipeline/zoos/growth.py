"""Growing a zoo, and rebuilding a zoo that has grown."""

import re
from collections.abc import Collection

import numpy as np

from pipeline.archive.growing import Growing, read_growing, write_growing
from pipeline.archive.growth import Growth, Stretches, stretches, zoo_order
from pipeline.archive.originals import find_signals, original_signals, read_source, require_same
from pipeline.archive.record import ZooRecord
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import claim_zoo, sweep
from pipeline.archive.zoo import Zoo
from pipeline.config import AnyZooConfig, ZooConfig, differences
from pipeline.errors import ArchiveError, InputError
from pipeline.location import Location
from pipeline.signals import Signals
from pipeline.zoos.build import ZooPlan, plan_signals


def plan_growth(
    folder: Location, views: str = "+0", trusted: Collection[str] = ()
) -> ZooPlan | None:
    """The plan of the larger zoo, written to growing.json; None if there is nothing to add.

    `views` is the number per signal: "4", or "+2" for two more. New signals of the source are added
    as well. An interrupted growth is resumed. A function of the user is called only if its module
    is one of `trusted`.

    Raises InputError if zoos of this kind do not grow, the zoo would shrink, or a signal is gone or
    changed, ArchiveError if the zoo is not finished or damaged.
    """
    found = larger_plan(folder, views, trusted)
    if found is None or read_growing(folder) is not None:
        return found
    record, num_known = found.record, found.record.grown[-1].num_signals
    names = None if found.signals.names is None else found.signals.names[num_known:]
    sweep(folder)
    write_growing(folder, Growing(zoo=record, names=names))
    return found


def larger_plan(folder: Location, views: str, trusted: Collection[str]) -> ZooPlan | None:
    """`plan_growth`, of which nothing is written."""
    growing = read_growing(folder)
    if growing is not None:
        return go_on(folder, growing, views, trusted)
    zoo = Zoo.open(folder)
    require_growable(zoo)
    record, num_views = zoo.record, views_after(zoo, views)
    signals = read_source(folder, record, trusted=trusted)
    order, places = larger_order(zoo, signals)
    if num_views == record.inrs.views and not places:
        return None
    growth = Growth(
        fingerprint=record.fingerprint,
        views=record.inrs.views,
        num_signals=record.signals.num_signals,
        digest=record.signals.digest,
        places=places,
    )
    config, signals = record.inrs.model_copy(update={"views": num_views}), signals.at(order)
    return plan_signals(config, signals, (*record.grown, growth))


def present_plan(zoo: Zoo) -> ZooPlan:
    """The plan of a finished zoo as it is."""
    record = zoo.record
    signals = original_signals(
        zoo.folder, record, trusted=zoo.trusted, names=lambda: [*zoo.source_names()]
    )
    return plan_signals(record.inrs, signals, record.grown)


def larger_order(zoo: Zoo, signals: Signals) -> tuple[np.ndarray, Stretches]:
    """`(signals,)` int64 positions in the source in the order of the larger zoo, and the new ones.

    Raises InputError if a signal of the zoo is gone, changed or in another order.
    """
    folder, record = zoo.folder, zoo.record
    known = find_signals(folder, signals, zoo.source_names(), record.signals.num_signals)
    is_new = np.ones(len(signals), bool)
    is_new[known] = False
    require_same(folder, record, signals.at(known))
    order, places = np.concatenate([known, np.flatnonzero(is_new)]), stretches(is_new)
    followed = zoo_order(len(signals), [*(growth.places for growth in record.grown), places])
    if not np.array_equal(order, followed):
        raise InputError(
            f"the source of zoo {folder} must have its signals in the order in which it had them, "
            "found another: put them back in order, the new ones anywhere between them"
        )
    return order, places


def plan_again(
    file: Location,
    record: ZooRecord,
    config: AnyZooConfig,
    folder: Location,
    trusted: Collection[str] = (),
) -> ZooPlan:
    """The plan of the zoo whose zoo.json is `file`, including its growth, written to `folder`.

    `config` is that of the record, but its signals may be elsewhere. Raises InputError if it
    differs otherwise or the signals are not those that were fitted, and like `claim_zoo`.
    """
    if fields := differences(record.config.identity(), config.identity()):
        raise InputError(
            f"the zoo of {file} is rebuilt as it was, got settings that change it "
            f"({'; '.join(fields)}): set only resources and where its signals are"
        )
    record = record.model_copy(update={"config": config})
    names = Zoo.open(file.parent).source_names  # the source may have more by now
    signals = original_signals(file.parent, record, trusted=trusted, names=names)
    plan = plan_signals(config, signals, record.grown)
    claim_zoo(folder, plan.record)
    return plan


def go_on(folder: Location, growing: Growing, views: str, trusted: Collection[str]) -> ZooPlan:
    """The plan of an interrupted growth. Raises InputError if it was started with other `views`."""
    zoo, record = Zoo.open(folder), growing.zoo
    before, planned = record.grown[-1], record.inrs.views
    if number_of(views, before.views) not in (before.views, planned):
        raise InputError(
            f"zoo {folder} is growing to {planned} views of each signal: finish that first with "
            f"`dwszoo zoo grow {folder}`"
        )

    def names() -> list[str | None]:
        return [*zoo.source_names()[: before.num_signals], *(growing.names or [None])]

    signals = original_signals(folder, record, trusted=trusted, names=names)
    return plan_signals(record.inrs, signals, record.grown)


def require_growable(zoo: Zoo):
    """Raises InputError if zoos of this kind do not grow, ArchiveError if unfinished or damaged."""
    kind = zoo.record.config.kind
    if not isinstance(zoo.record.config, ZooConfig):
        found = "one of classifiers" if kind == "classifiers" else f"one that was {kind}"
        raise InputError(
            f"zoo {zoo.folder} must be a zoo of INRs that was built to grow, found {found}: "
            "build another zoo and merge the two"
        )
    zoo.require_finished()
    if problems := verify_zoo(zoo):
        raise ArchiveError(
            f"zoo {zoo.folder} cannot grow, it has {len(problems)} problems: {'; '.join(problems)}"
        )


def views_after(zoo: Zoo, views: str) -> int:
    """The new number of views per signal. Raises InputError if the zoo would shrink."""
    have = zoo.record.inrs.views
    wanted = number_of(views, have)
    if wanted < have:
        raise InputError(
            f"zoo {zoo.folder} has {have} views of each signal and cannot shrink to {wanted}: "
            f"expected --views {have} or more, or +1 for one more"
        )
    return wanted


def number_of(views: str, have: int) -> int:
    """The number that "4" or "+2" means, given the present one. Raises InputError otherwise."""
    if not re.fullmatch(r"\+?[0-9]{1,9}", views):
        raise InputError(f"views must be a number such as 4, or +2 for two more, got {views!r}")
    return int(views) + (have if views.startswith("+") else 0)
