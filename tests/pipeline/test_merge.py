"""Merged zoos: bits and rows kept, members distinguished, leaks and other networks refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from flows.cli import main
from flows.recipes import smoke
from flows.stages import convert
from pipeline.archive import merge
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import pending_shards, seal_zoo
from pipeline.archive.zoo import Zoo, column
from pipeline.config import (
    ClassifierConfig,
    ClassifierZooConfig,
    Config,
    FitConfig,
    HyperparametersConfig,
    ImportConfig,
    SignalsConfig,
    ZooConfig,
)
from pipeline.errors import ArchiveError, InputError
from pipeline.signals import Signals, load_signals
from pipeline.tasks.classification import Classification
from pipeline.zoos.build import fit_shard, plan_zoo

pytestmark = pytest.mark.fast

INRS = smoke().zoo.model_copy(
    update={"signals": SignalsConfig(limit=60), "fit": FitConfig(max_steps=3), "views": 2}
)


def build(folder: Path, config: Config, broken: int | None = None) -> Path:
    plan = plan_zoo(config, folder)
    if broken is not None:
        plan.signals.values[plan.shards[0].source_index[broken]] = np.nan
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    seal_zoo(folder)
    return folder


def changed(config: ZooConfig, **changes) -> ZooConfig:
    return config.model_copy(update=changes)


@pytest.fixture(scope="module")
def zoos(tmp_path_factory) -> dict[str, Path]:
    """Zoos of one architecture. Read only."""
    root = tmp_path_factory.mktemp("zoos")
    configs = {
        "one": INRS,
        "longer": changed(INRS, fit=FitConfig(max_steps=4), views=1),
        "other signals": changed(INRS, signals=SignalsConfig(limit=50)),
        "other splits": changed(INRS, seed=1),
        "omega": changed(INRS, inr=INRS.inr.model_copy(update={"omega": 25.0})),
        "wide": changed(INRS, inr=INRS.inr.model_copy(update={"hidden": (9, 6)})),
    }
    folders = {
        name: build(root / name, config, 1 if name == "one" else None)
        for name, config in configs.items()
    }
    convert.export(folders["other signals"], "webdataset", root / "exported")
    beside = root / "exported" / "dwszoo.json"
    content = json.loads(beside.read_text())
    for name, sources in (("imported", None), ("came back", content["sources"])):
        beside.write_text(json.dumps(content | {"sources": sources or "of another program"}))
        config = ImportConfig(format="webdataset", path=root / "exported")
        convert.import_zoo(config, root / name)
    return folders | {name: root / name for name in ("came back", "imported")}


def members(zoo: Zoo) -> list[tuple[dict, dict[str, torch.Tensor]]]:
    rows = zoo.catalog.to_pylist()
    return [(row, zoo[i] if row["status"] == "ok" else {}) for i, row in enumerate(rows)]


def assert_kept(merged: Zoo, parts: list[Zoo], changing: set[str]):
    """Every member of every part occurs once, with its bits and, except `changing`, its row."""
    found = {row["key"]: (row, state) for row, state in members(merged)}
    assert len(found) == len(merged) == sum(map(len, parts))
    for part in parts:
        for row, state in members(part):
            own, tensors = found[f"{part.record.fingerprint}-{row['key']}"]
            assert {name: own[name] for name in row.keys() - changing} == {
                name: row[name] for name in row.keys() - changing
            }
            assert state.keys() == tensors.keys()
            assert all(torch.equal(tensor, tensors[name]) for name, tensor in state.items())


MOVED = {"key", "shard", "source_index", "view"}


def test_views_of_the_same_signals_go_on_counting_and_keep_their_side(zoos, tmp_path):
    parts = [Zoo.open(zoos["one"]), Zoo.open(zoos["longer"])]
    assert len(convert.merge_zoos([zoos["one"], zoos["longer"]], tmp_path)) == 180
    merged = Zoo.open(tmp_path)
    assert verify_zoo(merged) == []
    assert_kept(merged, parts, MOVED)
    table = merged.catalog.to_pandas()
    assert not table.duplicated(["source_index", "view"]).any()
    assert {
        tuple(sorted(views)) for views in table.groupby("source_index")["view"].apply(list)
    } == {(0, 1, 2)}
    assert (table.groupby("source_index")["split"].nunique() == 1).all()
    assert [part.record for part in parts] == list(merged.record.merged)
    assert table["status"].value_counts().to_dict() == {"ok": 178, "failed": 2}


def test_other_signals_and_an_imported_zoo_get_numbers_of_their_own(zoos, tmp_path):
    names = ("one", "other signals", "imported")
    parts = [Zoo.open(zoos[name]) for name in names]
    convert.merge_zoos([zoos[name] for name in names], tmp_path)
    merged = Zoo.open(tmp_path)
    assert verify_zoo(merged) == []
    assert_kept(merged, parts, MOVED)
    own = [pc.starts_with(pc.field("key"), part.record.fingerprint) for part in parts]
    sources = [set(merged.catalog.filter(rows)["source_index"].to_pylist()) for rows in own]
    assert [len(part) for part in sources] == [60, 50, 50]
    assert not sources[0] & sources[1]
    assert not sources[1] & sources[2]
    Classification().check(merged)


def test_a_zoo_that_came_back_still_says_which_members_are_of_one_signal(zoos, tmp_path):
    parts = [Zoo.open(zoos[name]) for name in ("other signals", "came back")]
    convert.merge_zoos([part.folder for part in parts], tmp_path / "merged")
    merged = Zoo.open(tmp_path / "merged")
    assert verify_zoo(merged) == []
    table = merged.catalog.to_pandas()
    assert (table["source_index"].value_counts() == 4).all()
    assert not table.duplicated(["source_index", "view"]).any()
    drawn = ImportConfig(format="webdataset", path=parts[1].record.config.path, splits="drawn")
    convert.import_zoo(drawn, tmp_path / "drawn")
    with pytest.raises(
        InputError, match=r"source \d+ of digits is in the \w+ split of zoo .*other"
    ):
        convert.merge_zoos([parts[0].folder, tmp_path / "drawn"], tmp_path / "refused")


def backwards(size: int | None) -> Signals:
    """Some digits, with their classes in the other order."""
    digits = load_signals(SignalsConfig(limit=40))
    return Signals("backwards", digits.values, 9 - digits.labels, digits.class_names[::-1])


def test_classes_of_one_name_are_one_class(zoos, tmp_path):
    source = SignalsConfig(source="tests.pipeline.test_merge:backwards")
    convert.merge_zoos(
        [zoos["one"], build(tmp_path / "other", changed(INRS, signals=source))], tmp_path / "merged"
    )
    merged, other = Zoo.open(tmp_path / "merged"), Zoo.open(tmp_path / "other")
    assert verify_zoo(merged) == []
    theirs = [other.record.signals.class_names[label] for label in column(other.catalog, "label")]
    assert merged.record.signals.class_names == Zoo.open(zoos["one"]).record.signals.class_names
    found = merged.catalog.filter(pc.starts_with(pc.field("key"), other.record.fingerprint))
    assert [merged.record.signals.class_names[label] for label in column(found, "label")] == theirs


def test_runs_of_classifiers_are_told_apart(tmp_path):
    config = ClassifierZooConfig(
        signals=SignalsConfig(limit=100),
        num_runs=10,
        network=ClassifierConfig(hidden=(4,)),
        hyperparameters=HyperparametersConfig(epochs=(1,)),
        checkpoints=(0,),
        shard_size=4,
    )
    other = config.model_copy(
        update={"hyperparameters": HyperparametersConfig(epochs=(1,), learning_rate=(1e-2,))}
    )
    folders = [build(tmp_path / "a", config), build(tmp_path / "b", other)]
    parts = [Zoo.open(folder) for folder in folders]
    convert.merge_zoos(folders, tmp_path / "merged")
    merged = Zoo.open(tmp_path / "merged")
    assert verify_zoo(merged) == []
    assert_kept(merged, parts, MOVED | {"run"})
    assert pc.count_distinct(merged.catalog["run"]).as_py() == 20
    assert merged.module(0)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_merge_goes_on_where_it_stopped_and_mends_just_what_is_damaged(zoos, tmp_path):
    places = [zoos["one"], zoos["other signals"]]
    plan = merge.plan_merge(places, tmp_path / "merged")
    merge.merge_shard(plan, tmp_path / "merged", "test-000000")
    before = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "merged").rglob("test-000000.*")
    }
    assert len(before) == 2
    convert.merge_zoos(places, tmp_path / "merged")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    shard = tmp_path / "merged" / "shards" / "train-000001.tar"
    whole, times = (
        shard.read_bytes(),
        {path: path.stat().st_mtime_ns for path in shard.parent.iterdir()},
    )
    shard.write_bytes(whole[:-1024])
    assert list(pending_shards(tmp_path / "merged")) == ["train-000001"]
    convert.merge_zoos(places, tmp_path / "merged")
    assert shard.read_bytes() == whole
    assert {
        path.name for path in shard.parent.iterdir() if path.stat().st_mtime_ns != times[path]
    } == {"train-000001.tar"}
    convert.merge_zoos(places, tmp_path / "again")
    for path in (tmp_path / "merged").rglob("*.*"):
        if path.is_file():
            assert (
                tmp_path / "again" / path.relative_to(tmp_path / "merged")
            ).read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match=r"differs from this one .* in zoos: was"):
        convert.merge_zoos(places[::-1], tmp_path / "merged")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["one"], "expected two zoos or more to merge, found .*/one alone"),
        (["one", "one"], "zoos .*/one and .*/one are the same"),
        (
            ["one", "omega"],
            r"zoo .*/omega must have omega 30\.0 to be merged with .*/one, found 25\.0",
        ),
        (["one", "wide"], r"zoo .*/wide must have tensors .*\(8, 2\).*found .*\(9, 2\)"),
        (
            ["one", "other splits"],
            "source [0-9]+ of digits is in the .* split of zoo .*/one and in the .* split of "
            ".*/other",
        ),
    ],
)
def test_what_cannot_be_one_zoo_is_refused_before_anything_is_written(
    zoos, tmp_path, names, message
):
    with pytest.raises(InputError, match=message):
        convert.merge_zoos([zoos[name] for name in names], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_damaged_or_unfinished_zoo_is_not_merged(zoos, zoo_copy, tmp_path):
    (zoo_copy / "statistics.json").unlink()
    with pytest.raises(ArchiveError, match=r"is not finished: statistics\.json is missing"):
        merge.plan_merge([zoos["one"], zoo_copy], tmp_path / "merged")


def test_the_command_merges(zoos, tmp_path, capsys):
    out = tmp_path / "merged"
    assert main(["zoo", "merge", str(zoos["one"]), str(zoos["longer"]), "--out", str(out)]) == 0
    assert f"{out}: 180 members of 2 zoos" in capsys.readouterr().out
    assert json.loads((out / "zoo.json").read_text())["config"]["paths"] == [
        str(zoos["one"]),
        str(zoos["longer"]),
    ]
    assert main(["zoo", "info", str(out)]) == 0
    assert main(["zoo", "render", str(out), "--out", str(tmp_path / "x.svg")]) == 0
    assert "without originals: the zoo was merged" in (tmp_path / "x.svg").read_text()
    capsys.readouterr()
    assert (
        main(
            ["zoo", "merge", str(out), str(zoos["other signals"]), "--out", str(tmp_path / "deep")]
        )
        == 2
    )
    assert "is itself merged: merge the zoos it was made from, " in capsys.readouterr().err
