"""A zoo under construction can be inspected, says that it is partial, and cannot be used."""

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pytest

from flows.cli import main
from flows.recipes import smoke
from pipeline.archive import IterableZoo, Zoo, catalog, files
from pipeline.archive.summary import summarize
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import seal_zoo
from pipeline.errors import InputError
from pipeline.zoos.build import fit_shard, plan_zoo

SIZES = {"train-000000": 64, "train-000001": 64, "train-000002": 64, "train-000003": 64}
SIZES |= {"train-000004": 26, "validation-000000": 38, "test-000000": 64, "test-000001": 16}


def build_here(folder: Path):
    """The smoke zoo, shard by shard in this process."""
    config = smoke().zoo
    plan = plan_zoo(config, folder)
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    seal_zoo(folder)


@pytest.fixture
def partial(zoo_copy) -> Path:
    """Three of eight shards: two for training, one for validation; a fourth is not committed."""
    (zoo_copy / "statistics.json").unlink()
    kept = {"train-000000", "train-000003", "validation-000000"}
    for name in SIZES.keys() - kept:
        catalog.part_path(zoo_copy, name).unlink()
        if name != "test-000000":
            catalog.shard_path(zoo_copy, name).unlink()
    return zoo_copy


def look(folder: Path) -> int:
    """The number of readable members, on which info, blocks and catalog must agree."""
    zoo = Zoo.open(folder)
    summary = summarize(zoo)
    assert summary["members"] == len(zoo) == sum(SIZES[shard.name] for shard in zoo.shards)
    read = sum(
        len(rows) for split in ("train", "validation", "test") for _, rows in zoo.blocks(split)
    )
    assert read == len(zoo)
    assert summary["state"] == ("finished" if zoo.is_sealed else f"partial: {zoo._committed}")
    return len(zoo)


def test_at_every_moment_of_a_build_what_is_committed_can_be_read(tmp_path, monkeypatch):
    """Look before and after each file gets its name: a kill can leave any of these states."""
    seen = []

    def replace(temporary, path):
        if (tmp_path / "zoo.json").exists():
            seen.append(look(tmp_path))
        else:
            with pytest.raises(InputError, match="is not a zoo"):
                Zoo.open(tmp_path)
        os.rename(temporary, path)
        seen.append(look(tmp_path))

    monkeypatch.setattr(files.os, "replace", replace)
    build_here(tmp_path)
    assert sorted(set(seen)) == [0, 64, 128, 192, 256, 282, 320, 384, 400]
    assert Zoo.open(tmp_path).state == "finished"


def test_a_zoo_can_be_read_while_another_process_builds_it(tmp_path, built_zoo):
    builder = multiprocessing.get_context("spawn").Process(target=build_here, args=(tmp_path,))
    builder.start()
    counts = []
    while builder.is_alive():
        if (tmp_path / "zoo.json").exists():
            counts.append(look(tmp_path))
            problems = verify_zoo(Zoo.open(tmp_path))
            assert all("not committed" in each or "not finished" in each for each in problems)
    builder.join()
    assert builder.exitcode == 0
    assert counts == sorted(counts)
    assert Zoo.open(tmp_path).catalog.equals(Zoo.open(built_zoo).catalog)


def test_verify_speaks_of_a_zoo_as_it_was_when_it_was_opened(partial, built_zoo):
    zoo = Zoo.open(partial)
    shutil.copytree(built_zoo, partial, dirs_exist_ok=True)
    problems = verify_zoo(zoo)
    assert len(problems) == 5
    assert all("is not committed" in problem for problem in problems)
    assert verify_zoo(Zoo.open(partial)) == []


def test_a_partial_zoo_has_what_is_committed_when_it_is_opened(partial, built_zoo):
    zoo, whole = Zoo.open(partial), Zoo.open(built_zoo)
    committed = pc.field("shard").isin(["train-000000", "train-000003", "validation-000000"])
    assert zoo.catalog.equals(whole.catalog.filter(committed))
    assert repr(zoo) == (
        f"<Zoo {partial}: 166 members (train 128, validation 38), 2-8-6-1, 85 parameters, "
        "partial: 3 of 8 shards are committed>"
    )
    assert zoo[-1]["layers.0.bias"].equal(whole[319]["layers.0.bias"])
    assert list(zoo.blocks("test")) == []
    shutil.copy(catalog.part_path(built_zoo, "train-000001"), partial / "catalog")
    worker = pickle.loads(pickle.dumps(zoo))  # has what the zoo has that it was sent, no more
    assert len(list(IterableZoo(worker, "train"))) == 128
    assert len(Zoo.open(partial)) == 166 + 64


def test_info_and_picture_say_that_a_zoo_is_partial(partial, tmp_path, capsys):
    assert main(["zoo", "info", str(partial)]) == 0
    out = capsys.readouterr().out
    assert "state         partial: 3 of 8 shards are committed\n" in out
    assert "splits        train: 128, validation: 38\n" in out
    assert main(["zoo", "render", str(partial), "--out", str(tmp_path / "zoo.svg")]) == 0
    assert "partial: 3 of 8 shards are committed" in (tmp_path / "zoo.svg").read_text()
    assert main(["zoo", "render", str(partial), "--out", str(tmp_path / "zoo.png")]) == 0


def test_verify_names_the_shards_that_are_missing(partial, capsys):
    assert main(["zoo", "verify", str(partial)]) == 1
    out, err = capsys.readouterr()
    for name in ("train-000001", "train-000002", "train-000004", "test-000000", "test-000001"):
        assert f"shard {name} is not committed" in out
    assert "has 5 problems, listed above" in err
    assert "not finished (partial: 3 of 8 shards are committed)" in err


def test_a_zoo_without_its_seal_alone_is_partial_too(zoo_copy, capsys):
    (zoo_copy / "statistics.json").unlink()
    assert look(zoo_copy) == 400
    assert main(["zoo", "verify", str(zoo_copy)]) == 1
    assert (
        "is not finished: statistics.json is missing and 8 of 8 shards" in capsys.readouterr().out
    )


def test_a_zoo_with_no_shard_yet_can_be_looked_at(tmp_path, capsys):
    folder = tmp_path / "zoo"
    plan_zoo(smoke().zoo, folder)
    assert look(folder) == 0
    assert list(Zoo.open(folder)) == []
    assert main(["zoo", "info", str(folder)]) == 0
    assert main(["zoo", "render", str(folder), "--out", str(tmp_path / "zoo.png")]) == 2
    assert (
        "none of its members has weights (partial: 0 of 8 shards are committed)"
        in capsys.readouterr().err
    )
    assert "0 members (none yet)" in repr(Zoo.open(folder))


@pytest.mark.parametrize(
    "command",
    [
        ["train", "smoke", "--zoo", "{zoo}", "--out", "{tmp}/run"],
        ["zoo", "export", "{zoo}", "--format", "webdataset", "--out", "{tmp}/out"],
        ["zoo", "merge", "{zoo}", "{whole}", "--out", "{tmp}/out"],
    ],
    ids=["train", "export", "merge"],
)
def test_nothing_is_made_of_a_partial_zoo(partial, built_zoo, tmp_path, command, capsys):
    names = {"zoo": partial, "whole": built_zoo, "tmp": tmp_path}
    assert main([part.format(**names) for part in command]) == 1
    message = "is not finished: statistics.json is missing and 3 of 8 shards are committed"
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/[!.]*"))
    assert not list(tmp_path.glob("run/*"))
