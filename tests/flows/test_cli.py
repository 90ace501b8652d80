"""The command as a user types it: exit codes, messages, and what each command leaves behind."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import csv

from flows.cli import main
from flows.overrides import resolve_recipe
from flows.recipes import smoke
from flows.stages import build
from pipeline.archive.write import seal_zoo
from pipeline.config import FitConfig, SignalsConfig, SirenConfig, ZooConfig
from pipeline.errors import InputError
from pipeline.zoos.build import fit_shard, plan_zoo
from tests.conftest import contents, dwszoo


def test_help_answers_in_under_a_second():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        result = dwszoo("--help")
        times.append(time.perf_counter() - start)
    assert min(times) < 1
    for command in ("run", "recipes", "zoo", "train", "evaluate", "predict"):
        assert command in result.out


def test_recipes_are_listed_and_written_with_every_field(tmp_path):
    assert "\ndigits" in f"\n{dwszoo('recipes').out}"
    written = dwszoo("recipes", "digits", "--set", "zoo.views=5").out
    (tmp_path / "mine.toml").write_text(written)
    again = dwszoo("recipes", tmp_path / "mine.toml").out
    assert again.partition("[zoo]")[2] == written.partition("[zoo]")[2]
    assert "views = 5\n" in again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recipes", "digit"], "there is no recipe 'digit'"),
        (["run", "smoke", "--set", "trainng.epochs=3"], "did you mean 'training.epochs'?"),
        (["zoo", "info", "/nowhere"], "/nowhere is not a zoo"),
        (["zoo", "build", "images", "--out", "{tmp}"], "signals.path must say where"),
        (
            ["zoo", "build", "images", "--set", "zoo.signals.source=gone:make", "--out", "{tmp}"],
            "there is no module 'gone'",
        ),
        (
            [
                "zoo",
                "build",
                "smoke",
                "--out",
                "{tmp}",
                "--set",
                "zoo.signals.validation_fraction=0",
            ],
            "the validation split would be empty",
        ),
        (["zoo", "build", "smoke", "--out", "/proc/zoo"], "cannot write to /proc/zoo"),
        (["evaluate", "/nowhere"], "/nowhere is not a run"),
        (
            ["predict", "/nowhere", "--zoo", "{zoo}", "--out", "{tmp}/p.parquet"],
            "/nowhere is not a run",
        ),
        (["train", "smoke", "--zoo", "/nowhere", "--out", "{tmp}"], "/nowhere is not a zoo"),
    ],
)
def test_a_callers_mistake_is_one_sentence_and_exit_code_2(
    command, arguments, message, tmp_path, built_zoo
):
    result = command(*(part.format(tmp=tmp_path, zoo=built_zoo) for part in arguments))
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert "Traceback" not in result.err


def test_info_and_verify_tell_of_a_sound_zoo(command, built_zoo):
    info = json.loads(command("zoo", "info", built_zoo, "--json").out)
    assert (info["members"], info["failed"], info["architecture"]) == (400, 0, "2-8-6-1")
    assert info["splits"] == {"train": 282, "validation": 38, "test": 80}
    assert {split: sum(classes.values()) for split, classes in info["classes"].items()} == info[
        "splits"
    ]
    assert info["classes"]["validation"]["0"] == 4
    assert set(info["psnr"]) == set(info["psnr off grid"]) == {"0%", "5%", "50%", "95%", "100%"}
    assert "architecture  2-8-6-1" in command("zoo", "info", built_zoo).out
    verified = command("zoo", "verify", built_zoo)
    assert (verified.code, verified.out) == (0, f"{built_zoo} is sound: 8 shards, 400 members\n")


@pytest.mark.parametrize("name", ["verify", "info", "render", "train", "predict"])
def test_every_command_says_what_is_wrong_with_a_damaged_zoo(
    command, name, zoo_copy, smoke_run, tmp_path
):
    for lost in ("catalog/test-000000.parquet", "catalog.parquet", "shards.parquet"):
        (zoo_copy / lost).unlink()
    arguments = {
        "verify": ["zoo", "verify", zoo_copy],
        "info": ["zoo", "info", zoo_copy],
        "render": ["zoo", "render", zoo_copy, "--out", tmp_path / "x.png"],
        "train": ["train", "smoke", "--zoo", zoo_copy, "--out", tmp_path / "run"],
        "predict": [
            "predict",
            smoke_run.folder,
            "--zoo",
            zoo_copy,
            "--out",
            tmp_path / "p.parquet",
        ],
    }
    result = command(*arguments[name])
    assert result.code == 1
    assert "shard test-000000 is not committed" in result.out + result.err
    assert "Traceback" not in result.err


def test_render_draws_a_picture(command, built_zoo, tmp_path):
    assert command("zoo", "render", built_zoo, "--out", tmp_path / "zoo.png").code == 0
    with Image.open(tmp_path / "zoo.png") as picture:
        assert picture.size[0] > 800
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_two_workers_make_the_bytes_that_one_process_makes(built_zoo, smoke_run):
    assert contents(smoke_run.folder / "zoo") == contents(built_zoo)


def test_another_configuration_never_mixes_with_a_finished_run(smoke_run):
    from flows.run import run_stages

    recipe = resolve_recipe("smoke", ["training.epochs=4"])
    with pytest.raises(InputError, match=r"differs in training\.epochs: was 3, is 4"):
        run_stages(recipe, smoke_run.folder)


def test_predictions_cover_every_member(command, smoke_run, built_zoo, tmp_path):
    result = command(
        "predict", smoke_run.folder, "--zoo", built_zoo, "--out", tmp_path / "p.parquet"
    )
    assert result.code == 0, result.err
    table = pq.read_table(tmp_path / "p.parquet").to_pandas()
    assert len(table) == 400
    probabilities = table[[f"probability of {digit}" for digit in range(10)]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (table["predicted"].astype(int) == probabilities.argmax(1)).all()
    test = table[table["split"] == "test"]
    metrics = json.loads((smoke_run.folder / "metrics.json").read_text())
    assert (test["predicted"] == test["class"]).mean() == pytest.approx(metrics["accuracy"])


def test_a_damaged_checkpoint_is_refused(command, smoke_run, tmp_path):
    run = Path(shutil.copytree(smoke_run.folder, tmp_path / "run", symlinks=True))
    best = json.loads((run / "metrics.json").read_text())["epoch"]
    weights = run / "checkpoints" / f"epoch-{best:04d}" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    result = command("evaluate", run)
    assert result.code == 1
    assert "is damaged (model.safetensors must have sha256" in result.err


@pytest.mark.parametrize(("split", "count"), [("validation", 38), ("train", 282)])
def test_evaluating_another_split_leaves_the_metrics_of_the_test(
    smoke_run, tmp_path, capsys, split, count
):
    run = Path(shutil.copytree(smoke_run.folder, tmp_path / "run", symlinks=True))
    before = (run / "metrics.json").read_bytes()
    assert main(["evaluate", str(run), "--split", split]) == 0
    assert f"on {count} networks of the {split} split" in capsys.readouterr().out
    assert json.loads((run / f"metrics-{split}.json").read_text())["split"] == split
    assert (run / "metrics.json").read_bytes() == before
    assert json.loads(before)["split"] == "test"


def test_an_accuracy_stands_beside_that_of_the_most_frequent_class(smoke_run, zoo):
    train = zoo.members("train")["label"].to_numpy()
    test = zoo.members("test")["label"].to_numpy()
    most = np.bincount(train).argmax()
    share = f"{100 * (test == most).mean():.1f} %"
    assert smoke_run.result.out.count(f"trivial accuracy {share}") == 2
    page = (smoke_run.folder / "report" / "index.html").read_text()
    assert page.count(f"<td class=number>{share}</td>") >= 2


@pytest.mark.parametrize("name", ["p.xlsx", "p", "p.csv.gz", "nowhere/p.csv"])
def test_predictions_are_written_as_their_name_says_or_not_at_all(
    smoke_run, built_zoo, tmp_path, capsys, name
):
    arguments = ["predict", str(smoke_run.folder), "--zoo", str(built_zoo), "--out"]
    assert main([*arguments, str(tmp_path / name)]) == 2
    assert "expected a " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_predictions_as_csv_are_those_of_parquet(smoke_run, built_zoo, tmp_path):
    arguments = ["predict", str(smoke_run.folder), "--zoo", str(built_zoo), "--out"]
    for name in ("p.csv", "P.PARQUET"):
        assert main([*arguments, str(tmp_path / name)]) == 0
    table, text = pq.read_table(tmp_path / "P.PARQUET"), csv.read_csv(tmp_path / "p.csv")
    assert text.column_names == table.column_names
    assert text["key"].equals(table["key"])
    assert text["predicted"].cast("string").equals(table["predicted"])
    np.testing.assert_allclose(text["probability of 3"], table["probability of 3"], rtol=1e-6)


def test_an_export_that_is_refused_says_nothing_else(built_zoo, tmp_path, capsys):
    (tmp_path / "kept").touch()
    command = ["zoo", "export", str(built_zoo), "--format", "webdataset", "--out", str(tmp_path)]
    assert main(command) == 2
    expected = f"dwszoo: {tmp_path} must be a new or an empty folder: choose another --out\n"
    assert capsys.readouterr() == ("", expected)


def test_a_report_of_any_run_can_be_drawn(smoke_run, built_zoo, tmp_path, capsys):
    """The report of an unscored run without baselines on an imported zoo, which has no PSNR and no
    originals."""
    run = Path(shutil.copytree(smoke_run.folder, tmp_path / "run", symlinks=True))
    for name in ("baselines", "report"):
        shutil.rmtree(run / name)
    for name in ("metrics.json", "fit.json"):
        (run / name).unlink()
    theirs = tmp_path / "theirs"
    command = ["--format", "dwsnets", "--out"]
    assert main(["zoo", "export", str(built_zoo), *command, str(theirs)]) == 0
    for file in ("dwszoo.json", "dwszoo.parquet"):
        (theirs / file).unlink(missing_ok=True)
    shutil.rmtree(run / "zoo")
    assert main(["zoo", "import", str(theirs), *command, str(run / "zoo")]) == 0
    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report' / 'index.html'}\n"
    page = (run / "report" / "index.html").read_text()
    assert "The weights of some members" in page
    assert "cannot run members of" in page
    assert "flat MLP" not in page
    assert "training.<wbr>encoder.<wbr>channels" in page
    assert json.loads((run / "metrics.json").read_text())["split"] == "test"


def test_predicting_another_architecture_is_refused(command, smoke_run, tmp_path):
    config = ZooConfig(
        signals=SignalsConfig(limit=100), inr=SirenConfig(hidden=(5, 4)), fit=FitConfig(max_steps=1)
    )
    assert config.inr != smoke().zoo.inr
    plan = plan_zoo(config, tmp_path / "zoo")
    for shard in plan.shards:
        fit_shard(config, tmp_path / "zoo", plan.signals, shard)
    seal_zoo(tmp_path / "zoo")
    result = command(
        "predict", smoke_run.folder, "--zoo", tmp_path / "zoo", "--out", tmp_path / "p.parquet"
    )
    assert result.code == 2
    assert "must hold networks with tensors {'layers.0.weight': (8, 2)" in result.err


def test_a_line_says_what_was_taken_and_only_training_needs_classes(command, tmp_path, capsys):
    photos, zoo = tmp_path / "photos", tmp_path / "zoo"
    photos.mkdir()
    (photos / ".DS_Store").touch()
    for number in range(20):
        Image.new("L", (4, 4), number).save(photos / f"{number}.png")
    signals = SignalsConfig(source="folder", path=photos)
    config = ZooConfig(signals=signals, inr=SirenConfig(hidden=(4,)), fit=FitConfig(max_steps=2))
    plan = build.plan(config, zoo)
    line = "signals: 20 images, no classes, no splits of their own; left out: .DS_Store (hidden)\n"
    assert capsys.readouterr().err == line
    for shard in plan.shards:
        fit_shard(config, zoo, plan.signals, shard)
    seal_zoo(zoo)
    result = command("train", "smoke", "--zoo", zoo, "--out", tmp_path / "run")
    assert result.code == 2
    assert "has no classes to learn: its members must have labels of two classes" in result.err
    assert len(result.err.splitlines()) == 1
