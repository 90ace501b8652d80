"""Merging and editing zoos, and converting them from and to other projects' layouts."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dwsnet.heads import WeightsHead
from flows.bars import counting
from flows.stages.build import finish
from pipeline.archive.edit import Editor, edit_shard, plan_edit
from pipeline.archive.files import json_bytes, sha256
from pipeline.archive.merge import merge_shard, plan_merge
from pipeline.archive.record import ZooRecord
from pipeline.archive.write import pending_shards, unseal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import ExchangeFormat, ImportConfig, differences
from pipeline.errors import InputError
from pipeline.exchange.exporting import export_zoo
from pipeline.exchange.importing import import_shard, plan_import
from pipeline.location import Location
from pipeline.training.checkpoint import load_best, read_best
from pipeline.training.evaluate import require_space

FUNCTION = {
    "activations",
    "omega",
    "sigma",
    "frequencies",
    "output_offset",
    "output_scale",
    "coordinate_range",
    "coordinate_order",
}
"""Fields of a decode contract that determine the function of weights."""


def export(zoo: Location, format: ExchangeFormat, out: Path) -> tuple[int, int]:
    """Write a zoo in another project's layout.

    Returns the number of members with weights, and of those without.
    """
    opened = Zoo.open(zoo)
    with counting("export", len(opened), format) as advance:
        num_members = export_zoo(opened, format, out, advance)
    return num_members, len(opened) - num_members


def import_zoo(config: ImportConfig, out: Location) -> tuple[Zoo, list[str]]:
    """Import what is not committed yet, seal and verify; returns the zoo and unreadable files."""
    plan = plan_import(config, out)
    zoo = commit(
        out, plan.record, lambda name: import_shard(plan, out, name), "import", config.format
    )
    return zoo, list(plan.source.left_out)


def merge_zoos(zoos: Sequence[Location], out: Location) -> Zoo:
    """Merge what is not committed yet; seal and verify."""
    plan = plan_merge(zoos, out)
    return commit(
        out, plan.record, lambda name: merge_shard(plan, out, name), "merge", f"{len(zoos)} zoos"
    )


def edit_zoo(run: Path, zoo: Location, out: Location, trusted: Collection[str] = ()) -> Zoo:
    """Edit what is not committed yet by the best model of a run; seal and verify."""
    trained, opened = load_best(run, trusted), Zoo.open(zoo)
    if not isinstance(trained.model, WeightsHead):
        raise InputError(
            f"{run} must be trained for a task whose outputs are networks, such as editing, to "
            f"edit a zoo, found {trained.config.task.kind}"
        )
    require_space(trained, opened)
    best = read_best(run)
    require_functions(run, best.card["zoo"]["decode"], opened)
    card = sha256(json_bytes(best.card))  # model.json, which has the sha256 of the weights
    plan = plan_edit(opened, Editor(trained.model, card, str(run.resolve())), out)
    return commit(out, plan.record, lambda name: edit_shard(plan, out, name), "edit", str(run))


def require_functions(run: Path, decode: Mapping[str, Any], zoo: Zoo):
    """Raises InputError if weights mean different functions in the zoo and in that of the run.

    Fields that the zoo's record leaves open are not compared.
    """
    found = zoo.record.decode.model_dump(mode="json", include=FUNCTION, exclude_none=True)
    if fields := differences({name: decode.get(name) for name in found}, found):
        raise InputError(
            f"zoo {zoo.folder} must hold networks that are run as those that {run} was trained on, "
            f"found others, which differ in {'; '.join(fields)}"
        )


def commit(
    out: Location, record: ZooRecord, commit_shard: Callable[[str], object], title: str, note: str
) -> Zoo:
    """Commit the shards of a planned zoo that are not committed yet, by name; seal and verify."""
    sizes = {shard.name: shard.num_members for shard in record.shards}
    if pending := pending_shards(out):
        unseal_zoo(out, record)
        with counting(title, sum(sizes[name] for name in pending), note) as advance:
            for name in pending:
                commit_shard(name)
                advance(sizes[name])
    return finish(out, fitted=bool(pending))
