"""Commands that build, inspect, convert and merge zoos."""

import json
from argparse import Namespace
from typing import TYPE_CHECKING

from pipeline.errors import ArchiveError
from pipeline.location import Location

if TYPE_CHECKING:
    from flows.stages.build import FitSummary

MEMBERS_FAILED = 3
"""Exit code of a command that finished, but whose zoo has members without weights."""
LISTED = 20
"""How many problems of an import are printed."""


def tell_failed(zoo: Location) -> int:
    """Print how many members have no weights and why, if any; returns the exit code."""
    from pipeline.archive.summary import failures
    from pipeline.archive.zoo import Zoo

    failed = failures(Zoo.open(zoo))
    if not failed:
        return 0
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in failed.items())
    print(f"failed      {sum(failed.values()):,} members have no weights: {reasons}")
    return MEMBERS_FAILED


def zoo_build(options: Namespace) -> int:
    """Fit and archive a zoo. Run again, it continues where it stopped and refits damaged shards."""
    from flows import verbs
    from flows.server import own_server, perform

    with own_server() as is_up:
        settings, trust = tuple(options.settings), tuple(options.trust)
        summary = perform(verbs.build, is_up, options.recipe, str(options.out), settings, trust)
    tell_fitted(options.out, summary)
    return tell_failed(options.out)


def zoo_grow(options: Namespace) -> int:
    """Add INRs to a zoo: more views of each signal, and INRs of the signals that its source gained.

    Until it is done, readers see the zoo as it was. Run again, it continues where it stopped.
    """
    from flows import verbs
    from flows.server import own_server, perform

    settings, trust = tuple(options.settings), tuple(options.trust)
    with own_server() as is_up:
        summary = perform(verbs.grow, is_up, str(options.zoo), options.views, settings, trust)
    tell_fitted(options.zoo, summary)
    return tell_failed(options.zoo)


def tell_fitted(zoo: Location, summary: "FitSummary | None"):
    """Print what was fitted."""
    from flows.progress import figure
    from pipeline.archive.zoo import Zoo
    from pipeline.zoos import KINDS

    record = Zoo.open(zoo).record
    if summary is None:
        print(f"{zoo} is complete: all {len(record.shards)} shards were committed")
        return
    name = KINDS[record.config.kind].members
    fitted = f"{summary.num_members:,} {name} fitted at {figure(summary.rate)} {name}/s"
    print(f"{zoo}: {fitted}, {summary.num_failed} failed")


def zoo_info(options: Namespace):
    """Show counts, splits, quantiles of PSNR or accuracy, size and configuration of a zoo."""
    from pipeline.archive.summary import in_words, summarize
    from pipeline.archive.zoo import Zoo

    summary = summarize(Zoo.open(options.zoo))
    if options.json:
        print(json.dumps(summary, indent=2))
        return
    for key, value in summary.items():
        if value != {}:
            print(f"{key:<13} {in_words(value)}")


def zoo_verify(options: Namespace):
    """Check every shard against the catalog, and list what is wrong."""
    from pipeline.archive.verify import verify_zoo
    from pipeline.archive.zoo import Zoo

    zoo = Zoo.open(options.zoo)
    if problems := verify_zoo(zoo):
        for problem in problems:
            print(problem)
        state = "" if zoo.is_sealed else f", as it is not finished ({zoo.state})"
        raise ArchiveError(f"zoo {options.zoo} has {len(problems)} problems, listed above{state}")
    print(f"{options.zoo} is sound: {len(zoo.record.shards)} shards, {len(zoo):,} members")


def zoo_render(options: Namespace):
    """Draw originals above what their INRs render, accuracies of classifiers, or else weights."""
    from pipeline.archive.files import file_kind
    from pipeline.archive.zoo import Zoo
    from pipeline.figures.picture import KINDS
    from pipeline.figures.zoo import picture_of

    file_kind(options.out, *KINDS)
    zoo = Zoo.open(options.zoo, options.trust)
    picture = picture_of(zoo)
    picture.draw(zoo, options.out)
    print(f"{options.out}: {picture.reasoned}")


def zoo_export(options: Namespace):
    """Write the members of a zoo in the layout of another project."""
    from flows.stages import convert

    num_members, num_failed = convert.export(options.zoo, options.format, options.out)
    print(
        f"{options.out}: {num_members:,} members as {options.format}"
        + (f"; {num_failed:,} have no weights" if num_failed else "")
    )


def zoo_import(options: Namespace) -> int:
    """Make a zoo from networks in the layout of another project.

    Damaged files are listed, everything else is imported. Run again, it continues where it stopped.
    """
    from flows.overrides import override
    from flows.stages import convert
    from pipeline.archive.files import exclusive
    from pipeline.config import ImportConfig

    config = override(ImportConfig(format=options.format, path=options.path), options.settings)
    with exclusive(options.out):
        zoo, left_out = convert.import_zoo(config, options.out)
    failed = [row for row in zoo.catalog.to_pylist() if row["status"] == "failed"]
    print(f"{options.out}: {len(zoo):,} members imported, {len(failed):,} without weights")
    problems = [
        *left_out,
        *(f"{row.get('source') or row['key']}: {row['stop_reason']}" for row in failed),
    ]
    for problem in problems[:LISTED]:
        print(f"    {problem}")
    if len(problems) > LISTED:
        print(f"    and {len(problems) - LISTED:,} more")
    return MEMBERS_FAILED if problems else 0


def zoo_merge(options: Namespace):
    """Merge zoos of one architecture into a new one, keeping the splits.

    Run again, it continues where it stopped.
    """
    from flows.stages import convert
    from pipeline.archive.files import exclusive

    with exclusive(options.out):
        zoo = convert.merge_zoos(options.zoos, options.out)
    print(f"{options.out}: {len(zoo):,} members of {len(options.zoos)} zoos")
