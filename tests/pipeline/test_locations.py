"""Zoos on an object store, through its own protocol, and on other file systems of pyarrow."""

import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from flows.cli import main
from flows.recipes import smoke
from flows.stages import assess
from pipeline.archive.files import exclusive, list_files, write_atomic
from pipeline.archive.summary import summarize
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import pending_shards, seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import FitConfig, SignalsConfig
from pipeline.errors import InputError
from pipeline.location import RemotePath, locate
from pipeline.training.checkpoint import load_best
from pipeline.training.checkpoint_folders import folders, latest, link_to, place_checkpoints
from pipeline.training.evaluate import write_predictions
from pipeline.training.loader import Feed
from pipeline.zoos.build import fit_shard, plan_zoo
from tests.conftest import EPOCHS, LONG, metrics_of, without_times
from tests.pipeline import worlds
from tests.pipeline.worlds import ProcessError, without_ray
from tests.s3 import CLIENT, Handler, Objects, s3_server

CONFIG = smoke().zoo.model_copy(
    update={"signals": SignalsConfig(limit=60), "fit": FitConfig(max_steps=2)}
)
SHARD = "/bucket/my zoo/shards/train-000001.tar"


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as environment, s3_server() as (query, objects):
        for name, value in CLIENT.items():
            environment.setenv(name, value)
        yield f"s3://bucket/my%20zoo?{query}", objects


@pytest.fixture
def store(server, built_zoo) -> tuple[str, Objects]:
    """The URI of a copy of the built zoo, and all objects of its store."""
    uri, objects = server
    objects.clear()
    files = (path for path in built_zoo.rglob("*") if path.is_file())
    objects |= {
        f"/bucket/my zoo/{path.relative_to(built_zoo)}": path.read_bytes() for path in files
    }
    return uri, objects


def build(place) -> Zoo:
    plan = plan_zoo(CONFIG, place)
    for shard in plan.shards:
        if shard.name in pending_shards(place):
            fit_shard(CONFIG, place, plan.signals, shard)
    return seal_zoo(place)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_command_builds_the_same_bytes_in_an_object_store(server, built_zoo, command):
    uri, objects = server
    objects.clear()
    with without_ray():
        result = command("zoo", "build", "smoke", "--workers", "1", "--out", uri)
    assert result.code == 0, result.err
    assert {key: data for key, data in objects.items() if not key.endswith("/")} == {
        f"/bucket/my zoo/{name}": data for name, data in contents(built_zoo).items()
    }
    assert main(["zoo", "verify", uri]) == 0


def test_a_zoo_in_an_object_store_reads_as_any_other(store, zoo):
    uri, _ = store
    remote = Zoo.open(uri)
    assert remote.catalog.equals(zoo.catalog)
    assert all(torch.equal(tensor, zoo[3][name]) for name, tensor in remote[3].items())
    assert verify_zoo(remote) == []
    assert summarize(remote) == summarize(zoo)
    for one, other in zip(
        Feed(remote, "train", ()).epoch(1, 64), Feed(zoo, "train", ()).epoch(1, 64), strict=True
    ):
        assert all(torch.equal(tensor, other.state[name]) for name, tensor in one.state.items())


def test_a_run_on_a_zoo_in_an_object_store_is_evaluated_and_predicts(store, smoke_run, tmp_path):
    uri, _ = store
    run = Path(shutil.copytree(smoke_run.folder, tmp_path / "run", symlinks=False))
    shutil.rmtree(run / "zoo")
    link_to(run / "zoo", locate(uri))
    assert assess.evaluate(run, "test") == json.loads(
        (smoke_run.folder / "metrics.json").read_text()
    )
    assert write_predictions(load_best(run), Zoo.open(uri), tmp_path / "p.parquet") == 400
    assert (
        main(["zoo", "export", uri, "--format", "unterthiner", "--out", str(tmp_path / "out")]) == 0
    )
    assert main(["zoo", "render", str(run / "zoo"), "--out", str(tmp_path / "x.png")]) == 0


def die_at_work(worker, barrier, spec, file: Path):
    """Train, and die without notice soon after the first checkpoint."""

    def die():
        while latest(Path(spec["jobs"][0]["run"])) is None:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=die, daemon=True).start()
    worlds.work(worker, barrier, spec, file)


def test_training_that_is_killed_goes_on_from_checkpoints_in_an_object_store(
    server, built_zoo, long_training, tmp_path, command
):
    """The second time in another folder, as that of the run is lost; the result is the same."""
    uri, objects = server
    objects.clear()
    place = locate(uri) / "checkpoints"
    arguments = ("train", "smoke", *LONG, "--set", f"training.checkpoints={place}")
    run, zoo = tmp_path / "run", ("--zoo", built_zoo)
    with patch.object(worlds, "work", die_at_work), without_ray(), pytest.raises(ProcessError):
        command(*arguments, *zoo, "--out", tmp_path / "lost")
    first = latest(tmp_path / "lost")
    with without_ray():
        result = command(*arguments, *zoo, "--out", run)
    assert result.code == 0, result.err
    assert without_times(metrics_of(run)) == without_times(metrics_of(long_training))
    begun = re.search(rf"epoch (\d+)/{EPOCHS}", result.err)  # a worker may outlive its driver
    assert int(begun[1]) >= int(first.name[-4:])
    assert {folder.name for folder in folders(run)} <= {
        f"epoch-{load_best(run).epoch:04d}",
        f"epoch-{EPOCHS:04d}",
    }
    files = [name for name in objects if not name.endswith("/")]
    assert len(files) == 4 * len(folders(run)) + 1
    assert assess.evaluate(run, "test")["split"] == "test"


def test_damage_in_an_object_store_is_found_and_mended(server):
    uri, objects = server
    objects.clear()
    place = locate(uri)
    with exclusive(place):
        build(place)
    whole = {key: data for key, data in objects.items() if not key.endswith("/")}
    objects[SHARD] = objects[SHARD][:-1] + b"x"
    objects.pop("/bucket/my zoo/catalog/test-000000.parquet")
    objects["/bucket/my zoo/shards/train-000099.tar"] = b""
    problems = verify_zoo(Zoo.open(uri))
    assert len(problems) == 3
    assert list(pending_shards(place)) == ["train-000001", "test-000000"]
    objects.pop("/bucket/my zoo/shards/train-000099.tar")
    build(place)
    assert {key: data for key, data in objects.items() if not key.endswith("/")} == whole
    with pytest.raises(InputError, match=r"differs from this one .* in views: was 2, is 3"):
        plan_zoo(CONFIG.model_copy(update={"views": 3}), place)


def test_an_upload_that_fails_is_never_seen(store, monkeypatch):
    uri, objects = store
    before = dict(objects)
    monkeypatch.setattr(Handler, "do_PUT", lambda self: (self.body(), self.answer(403))[1])
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        write_atomic(locate(uri) / "zoo.json", b"half")
    assert objects == before


def test_checkpoints_go_where_no_other_run_has_its_own(store, tmp_path):
    place = locate(store[0]) / "checkpoints"
    for name in ("one", "same", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("2" if name == "other" else "1")
    place_checkpoints(tmp_path / "one", place)
    place_checkpoints(tmp_path / "one", place)
    place_checkpoints(tmp_path / "same", place)
    assert locate(tmp_path / "same" / "checkpoints") == place
    with pytest.raises(InputError, match=r"must be a place for this run, found .* of another"):
        place_checkpoints(tmp_path / "other", place)
    assert not (tmp_path / "other" / "checkpoints").exists()
    with pytest.raises(
        InputError, match=r"has its checkpoints at .*: undo the change of training\.checkpoints"
    ):
        place_checkpoints(tmp_path / "one", tmp_path / "here")
    place_checkpoints(tmp_path / "other", tmp_path / "here" / "deep")
    assert (tmp_path / "other" / "checkpoints").samefile(tmp_path / "here" / "deep")


def test_a_store_that_lets_nobody_in_is_said_in_a_sentence(store, tmp_path, capsys, monkeypatch):
    uri, objects = store
    before = dict(objects)
    monkeypatch.setattr(Handler, "do_PUT", lambda self: (self.body(), self.answer(403))[1])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        place_checkpoints(tmp_path, locate(uri) / "checkpoints")
    assert not (tmp_path / "checkpoints").exists()
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.answer(403))
    assert main(["zoo", "verify", uri]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "ACCESS_DENIED" in line
    assert objects == before


def test_file_systems_with_folders_and_renames_hold_the_same_bytes(tmp_path):
    place = locate("mock:///deep/zoo")
    zoo, here = build(place), build(tmp_path)
    assert zoo.catalog.equals(here.catalog)
    for folder, same in (
        (place, tmp_path),
        (place / "shards", tmp_path / "shards"),
        (place / "catalog", tmp_path / "catalog"),
    ):
        files = {file.name: file.read_bytes() for file in list_files(folder)}
        assert files == {file.name: file.read_bytes() for file in list_files(same)}


def test_places_are_told_apart(tmp_path, built_zoo):
    assert locate("a//b") == Path("a/b")
    assert locate("file:///a/b%20c") == Path("/a/b c")
    assert locate(tmp_path) == tmp_path
    assert locate("s3://bucket/zoo?region=x") / "shards" == RemotePath(
        "s3://bucket/zoo/shards?region=x"
    )
    assert len(Zoo.open(built_zoo.as_uri())) == 400
    (tmp_path / "zoo").write_text("s3://bucket/zoo\n")
    assert locate(tmp_path / "zoo") == RemotePath("s3://bucket/zoo")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nope://x/zoo", "cannot open nope://x/ .*expected a local path, file://, s3://"),
        ("s3://bucket/zoo?speed=9", "Unexpected query parameter in S3 URI: 'speed'"),
        ("s3://me:hush@bucket/zoo", "a URI must not hold credentials"),
        ("mock:///nowhere", "mock:///nowhere is not a zoo"),
    ],
)
def test_a_place_that_cannot_be_is_refused_in_a_sentence(uri, message, capsys):
    with pytest.raises(InputError, match=message) as error:
        Zoo.open(uri)
    assert "hush" not in str(error.value)
    assert main(["zoo", "verify", uri]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["run", "smoke", "--out"], ["zoo", "export", "x", "--format", "dwsnets", "--out"]]
)
def test_what_must_lie_here_is_not_made_of_a_uri(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main([*arguments, "s3://bucket/run"])
    assert exit.value.code == 2
    assert "expected a path on this machine, found s3://bucket/run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
