"""Growing zoos: what is kept, what readers see meanwhile, and what is refused."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from flows.recipes import smoke
from pipeline.archive.catalog import part_path, shard_path
from pipeline.archive.edit import Editor, edit_shard, plan_edit
from pipeline.archive.files import list_files
from pipeline.archive.growing import PLAN, Growing, sealed_zoo_json, write_growing
from pipeline.archive.merge import merge_shard, plan_merge
from pipeline.archive.seal import SEAL
from pipeline.archive.summary import summarize
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import pending_shards, seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import FitConfig, SignalsConfig, SirenConfig, ZooConfig
from pipeline.errors import ArchiveError, InputError
from pipeline.exchange.exporting import export_zoo
from pipeline.location import Location, RemotePath
from pipeline.progress import no_progress
from pipeline.zoos.build import ZooPlan, fit_shard, plan_zoo
from pipeline.zoos.growth import plan_growth
from tests.conftest import contents
from tests.s3 import CLIENT, s3_server

CONFIG = smoke().zoo.model_copy(
    update={
        "signals": SignalsConfig(limit=60),
        "views": 2,
        "fit": FitConfig(max_steps=2),
        "shard_size": 50,
        "block_size": 32,
    }
)
MADE_ANEW = {"zoo.json", "statistics.json", "catalog.parquet", "shards.parquet"}


def fit(plan: ZooPlan, folder: Location):
    for shard in plan.shards:
        if shard.name in pending_shards(folder):
            fit_shard(plan.record.config, folder, plan.signals, shard)


def grow(folder: Location, views: str = "+0") -> Zoo:
    fit(plan_growth(folder, views), folder)
    return seal_zoo(folder)


def built(folder: Path, config: ZooConfig = CONFIG) -> Path:
    fit(plan_zoo(config, folder), folder)
    seal_zoo(folder)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A zoo of two views of 60 digits. Read only."""
    return built(tmp_path_factory.mktemp("small") / "zoo")


@pytest.fixture
def copy(small, tmp_path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "zoo"))


@pytest.fixture(scope="module")
def larger(small, tmp_path_factory) -> Path:
    """The same zoo after two more views, then one more. Read only."""
    folder = tmp_path_factory.mktemp("larger") / "zoo"
    shutil.copytree(small, folder)
    grow(folder, "+2")
    grow(folder, "5")
    return folder


def test_what_was_there_stays_byte_for_byte(larger, small):
    before, after = contents(small), contents(larger)
    assert {name for name in before if after.get(name) != before[name]} == MADE_ANEW
    assert after.keys() > before.keys()
    old, new = Zoo.open(small), Zoo.open(larger)
    assert new.catalog.slice(0, len(old)).equals(old.catalog)
    assert [*new.record.shards[: len(old.shards)]] == [*old.record.shards]


def test_each_signal_has_new_views_on_its_side(larger, small):
    new = Zoo.open(larger)
    assert verify_zoo(new) == []
    table = new.catalog.to_pandas()
    assert len(table) == 300
    assert (table.groupby("source_index")["view"].apply(sorted) == [[0, 1, 2, 3, 4]] * 60).all()
    assert (table.groupby("source_index")["split"].nunique() == 1).all()
    assert table["seed"].is_unique
    sides = Zoo.open(small).catalog.to_pandas().groupby("source_index")["split"].first()
    assert table.groupby("source_index")["split"].first().equals(sides)
    assert summarize(new)["times grown"] == 2


def test_the_members_are_those_of_a_zoo_that_had_them_at_once(larger, tmp_path):
    """Only the order differs: weights depend on (seed, signal, view) alone."""
    config = CONFIG.model_copy(update={"views": 5, "shard_size": 300})
    whole, grown = Zoo.open(built(tmp_path / "zoo", config)), Zoo.open(larger)
    keys = [zoo.catalog["key"].to_pylist() for zoo in (whole, grown)]
    assert sorted(keys[0]) == sorted(keys[1])
    some = keys[1][::37]
    for name, tensor in whole[[keys[0].index(key) for key in some]].items():
        np.testing.assert_allclose(
            tensor, grown[[keys[1].index(key) for key in some]][name], atol=1e-3
        )


def test_a_zoo_keeps_the_fingerprints_that_it_had(larger, small):
    first, grown = Zoo.open(small).record, Zoo.open(larger).record
    assert [growth.views for growth in grown.grown] == [2, 4]
    assert [growth.num_signals for growth in grown.grown] == [60, 60]
    assert grown.grown[0].fingerprint == first.fingerprint
    assert len({grown.fingerprint, *(growth.fingerprint for growth in grown.grown)}) == 3
    content = json.loads((larger / "zoo.json").read_text())
    for place, changed in ((0, {"views": 1}), (1, {"views": 3}), (1, {"num_signals": 59})):
        damaged = json.loads(json.dumps(content))
        damaged["grown"][place] |= changed
        with pytest.raises(ValueError, match="grown"):
            type(grown).model_validate(damaged)


class Killed(BaseException):
    """A kill, which `except Exception` must not catch."""


class Steps:
    """Each file written or removed is a step; before and after it a reader opens the zoo."""

    def __init__(self, monkeypatch, look: Callable[[], None]):
        self.look, self.left = look, 0
        for owner, name in ((os, "replace"), (RemotePath, "write_bytes"), (RemotePath, "unlink")):
            monkeypatch.setattr(owner, name, self.step(getattr(owner, name)))
        unlink, step = Path.unlink, self.step(Path.unlink)
        monkeypatch.setattr(
            Path, "unlink", lambda path, **how: (step if path.name == PLAN else unlink)(path, **how)
        )

    def step(self, function: Callable) -> Callable:
        def stepped(*arguments, **options):
            if not self.left:
                raise Killed
            self.left -= 1
            self.look()
            function(*arguments, **options)
            self.look()

        return stepped


@pytest.fixture
def local(copy) -> Path:
    return copy


@pytest.fixture
def remote(small, monkeypatch) -> Iterator[RemotePath]:
    for name, value in CLIENT.items():
        monkeypatch.setenv(name, value)
    with s3_server() as (query, objects):
        for path in small.rglob("*"):
            if path.is_file():
                objects[f"/bucket/zoo/{path.relative_to(small)}"] = path.read_bytes()
        yield RemotePath(f"s3://bucket/zoo?{query}")


@pytest.mark.parametrize("where", ["local", "remote"])
def test_readers_see_a_whole_zoo_at_every_moment_and_what_is_killed_goes_on(
    where, request, small, larger, monkeypatch
):
    folder = request.getfixturevalue(where)
    old, seen, held = Zoo.open(small), [], Zoo.open(folder)
    planned = Zoo.open(larger).record.grown[1].fingerprint

    def look():
        zoo = Zoo.open(folder)
        size = {old.record.fingerprint: 120, planned: 240}[zoo.record.fingerprint]
        assert zoo.is_sealed
        assert len(zoo) == size == len(zoo.columns(["key"]))
        assert [*zoo.seal.catalog] == [shard.name for shard in zoo.record.shards]
        seen.append(size)

    steps = Steps(monkeypatch, look)
    kills = [1, 6, 6, *range(8)]
    for left in kills:
        steps.left = left
        with suppress(Killed):
            grow(folder, "+2")
            break
        assert Zoo.open(folder).is_sealed
    assert left == 5, "kills came at each of the last steps"
    assert seen == sorted(seen)
    assert {*seen} == {120, 240}
    assert held.catalog.equals(old.catalog)
    assert verify_zoo(Zoo.open(folder)) == []
    assert PLAN not in [file.name for file in list_files(folder)]
    for shard in Zoo.open(folder).record.shards:
        for path in (shard_path, part_path):
            assert path(folder, shard.name).read_bytes() == path(larger, shard.name).read_bytes()


def test_a_reader_in_the_middle_of_the_change_takes_the_record_of_the_seal(larger, copy):
    """The seal changed after zoo.json was read, so the record in growing.json counts."""
    old, new = (copy / "zoo.json").read_bytes(), (larger / "zoo.json").read_bytes()
    seal = (larger / SEAL).read_bytes()
    write_growing(copy, Growing(zoo=Zoo.open(larger).record))
    assert sealed_zoo_json(copy, old, seal) == new
    (copy / "zoo.json").write_bytes(new)
    (copy / PLAN).unlink()
    assert sealed_zoo_json(copy, old, seal) == new
    (copy / "zoo.json").write_bytes(old)
    assert sealed_zoo_json(copy, old, seal) == old


def test_of_a_zoo_that_grows_verify_and_info_see_the_old_one(copy):
    before = summarize(Zoo.open(copy))
    plan = plan_growth(copy, "+1")
    fit_shard(plan.record.config, copy, plan.signals, plan.shards[-1])
    assert verify_zoo(Zoo.open(copy)) == []
    assert summarize(Zoo.open(copy)) == before | {"growing": "to 180 members"}


def test_what_cannot_grow_is_refused(copy, small, tmp_path, command):
    result = command("zoo", "grow", copy, "--views", "1")
    assert result.code == 2
    assert "has 2 views of each signal and cannot shrink to 1: expected --views 2" in result.err
    result = command("zoo", "grow", copy, "--views", "-1")
    assert result.code == 2
    assert "views must be a number such as 4, or +2 for two more, got '-1'" in result.err
    assert "is complete" in command("zoo", "grow", copy).out
    plan_growth(copy, "+1")
    with pytest.raises(InputError, match="is growing to 3 views of each signal: finish that first"):
        plan_growth(copy, "+2")
    with pytest.raises(InputError, match="is growing: `dwszoo zoo grow"):
        plan_zoo(CONFIG, copy)
    (copy / PLAN).write_text("{")
    with pytest.raises(ArchiveError, match=r"growing\.json is damaged"):
        plan_growth(copy, "+1")
    (copy / PLAN).unlink()
    (copy / SEAL).unlink()
    with pytest.raises(ArchiveError, match="is not finished"):
        plan_growth(copy, "+1")
    other = built(
        tmp_path / "other",
        CONFIG.model_copy(update={"inr": SirenConfig(hidden=(8, 6), omega=30.0, init="siren")}),
    )
    plan_merge([small, other], tmp_path / "merged")
    with pytest.raises(InputError, match=r"must be a zoo of INRs .* found one that was merged"):
        plan_growth(tmp_path / "merged", "+1")


def test_a_zoo_that_grew_is_merged_edited_and_exported_as_any_other(larger, small, tmp_path):
    zoo = Zoo.open(larger)
    other = built(tmp_path / "other", CONFIG.model_copy(update={"views": 1, "shard_size": 20}))
    merging = plan_merge([larger, other], tmp_path / "merged")
    for name in merging.shards:
        merge_shard(merging, tmp_path / "merged", name)
    merged = seal_zoo(tmp_path / "merged")
    assert verify_zoo(merged) == []
    assert pc.max(merged.catalog["view"]).as_py() == 5
    assert merged.record.merged[0].grown == zoo.record.grown
    same = Editor(lambda block: block, "0" * 64, "nowhere")
    editing = plan_edit(zoo, same, tmp_path / "edited")
    for shard in zoo.record.shards:
        edit_shard(editing, tmp_path / "edited", shard.name)
    edited = seal_zoo(tmp_path / "edited")
    assert verify_zoo(edited) == []
    assert len(edited.signals()) == 60
    assert export_zoo(zoo, "webdataset", tmp_path / "exported", no_progress) == len(zoo)


def test_what_is_damaged_does_not_grow_and_is_made_again_by_its_zoo_json(larger, tmp_path, command):
    folder = Path(shutil.copytree(larger, tmp_path / "zoo"))
    shard_path(folder, "train-000001").write_bytes(b"")
    result = command("zoo", "grow", folder, "--views", "+1")
    assert (result.code, "cannot grow, it has 1 problems: shard" in result.err) == (1, True)
    with pytest.raises(
        InputError, match=r"has grown .* `dwszoo zoo build \S*/zoo.json --out \S*` repairs"
    ):
        plan_zoo(CONFIG, folder)
