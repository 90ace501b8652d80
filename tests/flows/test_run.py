"""`dwszoo run`: its files, that finished work is not repeated, and that a kill loses nothing."""

import json
import os
import re
import shutil
import signal
import stat
from contextlib import nullcontext
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flows.recipes import smoke
from flows.run import run, run_stages
from pipeline.errors import DivergenceError, InputError
from pipeline.report.markdown import data_uri
from tests.conftest import (
    EPOCHS,
    LONG,
    metrics_of,
    start_dwszoo,
    wait_for,
    without_times,
)
from tests.pipeline.worlds import without_ray


def test_a_run_prints_where_everything_is_and_both_accuracies(smoke_run):
    folder, out = smoke_run.folder, smoke_run.result.out
    assert f"zoo         {folder / 'zoo'}" in out
    assert f"report      {folder / 'report' / 'index.html'}" in out
    checkpoint = Path(re.search(r"checkpoint  (\S+)", out).group(1))
    files = {"model.safetensors", "model.json", "optimizer.safetensors", "training.json"}
    assert {path.name for path in checkpoint.iterdir()} == files
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"dwsnet      accuracy {100 * metrics['accuracy']:.1f} %, " in out
    assert "on 80 networks of the test split" in out
    assert "mlp         accuracy" in out


def test_a_run_shows_progress_in_the_fields_units(smoke_run):
    err = smoke_run.result.err
    assert re.search(r"fit: 400/400 INRs \(100 %\), [\d,]+ INRs/s, mean PSNR \d+\.\d dB", err)
    assert re.search(
        r"dwsnet: 768/768 models \(100 %\).*epoch 3/3, loss \d\.\d+, "
        r"validation accuracy \d+\.\d %, [\d,]+ models/s",
        err,
    )
    assert "Traceback" not in err


def test_a_run_folder_holds_what_the_readme_says(smoke_run):
    folder = smoke_run.folder
    names = {
        "config.json",
        "zoo",
        "checkpoints",
        "metrics.jsonl",
        "metrics.json",
        "report",
        "baselines",
        "fit.json",
    }
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == names
    assert [line["epoch"] for line in metrics_of(folder)] == [1, 2, 3]
    assert json.loads((folder / "config.json").read_text())["training"]["epochs"] == 3
    assert (folder / "baselines" / "mlp" / "zoo").resolve() == (folder / "zoo").resolve()


def test_nobody_else_can_write_the_files_of_a_run_that_was_started_with_an_open_umask(smoke_run):
    paths = [smoke_run.folder, *smoke_run.folder.rglob("*")]
    writable = [path for path in paths if path.lstat().st_mode & stat.S_IWOTH]
    assert [path for path in writable if not path.is_symlink()] == []


class Page(HTMLParser):
    """Text by element id, and all links of the page."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_report_holds_what_it_should_and_needs_no_network(smoke_run):
    report = smoke_run.folder / "report"
    source = (report / "index.html").read_text()
    page = Page(source)
    drawn = [path for path in report.iterdir() if path.suffix in (".svg", ".png")]
    shown = ["confusion.svg", "curves.svg", "psnr.svg", "reconstructions.png"]
    both = {Path(name).with_suffix(suffix).name for name in shown for suffix in (".png", ".svg")}
    assert {path.name for path in drawn} == both
    assert sorted(page.links) == sorted(data_uri(report / name) for name in shown)
    assert all(path.stat().st_size > 2000 for path in drawn)
    assert "http" not in re.sub(r'src="data:[^"]*"', "", source)
    metrics = json.loads((smoke_run.folder / "metrics.json").read_text())
    baseline = json.loads((smoke_run.folder / "baselines" / "mlp" / "metrics.json").read_text())
    text = page.text.translate({0x2068: None, 0x2069: None})  # which isolate names
    for wanted in (
        f"{100 * metrics['accuracy']:.1f} %",
        f"{100 * baseline['accuracy']:.1f} %",
        f"{metrics['num_parameters']:,}",
        "INRs/s",
        "models/s",
        "zoo.fit.max_steps",
        "training.encoder.channels",
        "Adam's learning rate.",
        "train: 282, validation: 38, test: 80",
    ):
        assert wanted in text, wanted


def test_a_finished_run_is_not_repeated(smoke_run):

    watched = [
        path for path in smoke_run.folder.rglob("*") if path.is_file() and path.name != ".lock"
    ]
    before = {path: path.stat().st_mtime_ns for path in watched}
    again = run_stages(smoke(), smoke_run.folder)
    assert again["report"] == smoke_run.folder / "report" / "index.html"
    assert [scores["accuracy"] for scores in again["metrics"].values()] == [
        json.loads((smoke_run.folder / folder / "metrics.json").read_text())["accuracy"]
        for folder in ("", "baselines/mlp")
    ]
    assert {path: path.stat().st_mtime_ns for path in watched} == before


def test_a_baseline_that_another_run_left_half_done_is_not_reported(smoke_run, tmp_path):
    folder = Path(shutil.copytree(smoke_run.folder, tmp_path / "run", symlinks=True))
    (folder / "baselines" / "mlp" / "metrics.json").unlink()
    recipe = smoke()
    training = recipe.training.model_copy(update={"baselines": ()})
    made = run_stages(recipe.model_copy(update={"training": training}), folder)
    assert len(made["metrics"]) == 1
    assert made["report"].exists()


def test_training_that_is_interrupted_goes_on_and_ends_the_same(
    built_zoo, long_training, tmp_path, command
):
    trackers = ("--set", 'training.trackers=["tensorboard"]')
    arguments = ["train", "smoke", *LONG, *trackers, "--zoo", built_zoo, "--out", tmp_path]
    process = start_dwszoo(*arguments)
    wait_for(lambda: newest_checkpoint(tmp_path), 90)
    os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C goes to every process of the group
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("dwszoo: interrupted: run the same command again to continue\n")
    assert newest_checkpoint(tmp_path) < f"epoch-{EPOCHS:04d}"
    with without_ray():
        result = command(*arguments)
    assert result.code == 0, result.err
    assert without_times(metrics_of(tmp_path)) == without_times(metrics_of(long_training))
    assert not list(tmp_path.glob("checkpoints/.*"))
    events = b"".join(file.read_bytes() for file in (tmp_path / "tensorboard").iterdir())
    assert events.count(b"validation/accuracy") >= EPOCHS


def newest_checkpoint(run: Path) -> str:
    return max((path.name for path in run.glob("checkpoints/epoch-*")), default="")


def test_a_baseline_that_diverges_alone_leaves_a_report_of_the_rest(
    smoke_run, tmp_path, monkeypatch
):
    from flows import run as flow
    from flows.stages import learn, session

    folder = tmp_path / "run"
    shutil.copytree(smoke_run.folder, folder, symlinks=True)
    shutil.rmtree(folder / "baselines")
    (folder / "report" / "index.html").unlink()

    def diverge(zoo, run, training, resources, variants, trusted):
        raise DivergenceError(f"training of {run / variants[1].folder} diverged")

    monkeypatch.setattr(learn, "train", diverge)
    monkeypatch.setattr(session, "ray_session", lambda *_, **__: nullcontext())
    with pytest.raises(DivergenceError) as caught:
        flow.run_stages(smoke(), folder)
    page = folder / "report" / "index.html"
    assert str(caught.value) == (
        f"training of {folder / 'baselines' / 'mlp'} diverged; {page} reports what was trained "
        "beside it"
    )
    assert "DWSNet: accuracy on the test split" in page.read_text()
    assert ", same budget" not in page.read_text()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('probe.targets=["lable"]', "has no column 'lable' to probe for: .* did you mean 'label'"),
        ("probe.finetune.task.kind=regression", "has no column 'test_accuracy' to learn from"),
    ],
)
def test_what_cannot_be_probed_for_is_said_before_anything_is_fitted(tmp_path, setting, message):
    with pytest.raises(InputError, match=message):
        run("digits-pretrain", tmp_path / "run", (setting,))
    assert not list((tmp_path / "run").glob("zoo/catalog/*"))


def test_results_are_a_page_of_markdown_too(smoke_run):
    from pipeline.report.markdown import write_markdown

    lines = write_markdown(smoke_run.folder).splitlines()
    names, _, *rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    assert [row[0] for row in rows] == ["DWSNet", "flat MLP"]
    assert all(len(row) == len(names) for row in rows)
    accuracy = json.loads((smoke_run.folder / "metrics.json").read_text())["accuracy"]
    assert dict(zip(names, rows[0], strict=True))["test accuracy"] == f"{100 * accuracy:.1f} %"
    assert (smoke_run.folder / "report" / "index.html").as_uri() in lines[lines.index("") + 1]
    pictures = [line for line in lines if line.startswith("![")]
    assert [line[:6] for line in pictures] == ["![conf", "![curv", "![psnr", "![reco"]
    assert any(line.startswith("![curves](data:image/svg+xml;base64,") for line in pictures)
