"""Editing through the real command: training, evaluation, predictions, report, edited zoo."""

import json

import pyarrow.parquet as pq
import pytest

from flows.cli import main
from pipeline.archive.zoo import Zoo
from tests.pipeline.worlds import without_ray

TASK = (
    *("--set", "training.task.kind=editing"),
    *("--set", "training.task.expansion=2"),
    *("--set", "training.epochs=2"),
    *("--set", "training.learning_rate=0.01"),
    *("--set", "training.zero_stage=2"),  # DeepSpeed's ZeRO, over two workers
)


@pytest.fixture(scope="module")
def run(built_zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("editing") / "run"
    with without_ray():
        assert main(["train", "smoke", *TASK, "--zoo", str(built_zoo), "--out", str(folder)]) == 0
    return folder


def test_a_trained_editor_is_scored_reported_and_edits_a_zoo(run, built_zoo, tmp_path, capsys):
    def command(*arguments) -> str:
        assert main([*map(str, arguments)]) == 0
        return capsys.readouterr().out

    shown = command("evaluate", run)
    assert "trivial mse" in shown
    assert "expansion 2" in shown
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["mse"] < metrics["trivial_mse"]
    command("predict", run, "--zoo", built_zoo, "--out", tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet")
    assert len(table) == len(Zoo.open(built_zoo))
    assert table["mean_squared_change"].null_count == 0
    command("report", run)
    assert "2 times as wide" in (run / "report" / "index.html").read_text()
    assert (run / "report" / "edits.png").exists()
    edited = tmp_path / "edited"
    shown = command("edit", run, "--zoo", built_zoo, "--out", edited)
    assert shown == f"{edited}: 400 members of {built_zoo} edited, 2-16-12-1\n"
    assert command("zoo", "verify", edited).startswith(f"{edited} is sound")


def test_what_cannot_edit_or_be_edited_is_one_sentence(run, smoke_run, built_zoo, tmp_path, capsys):
    def refusal(*arguments) -> str:
        assert main([*map(str, arguments)]) == 2
        return capsys.readouterr().err

    out = ("--out", tmp_path / "edited")
    problem = refusal("edit", smoke_run.folder, "--zoo", built_zoo, *out)
    assert (
        "whose outputs are networks, such as editing, to edit a zoo, found classification"
        in problem
    )
    assert not (tmp_path / "edited" / "zoo.json").exists()
    told = refusal("probe", run)
    assert "a vector of each network to be probed, which task editing does not use" in told
    assert len(told.splitlines()) == 1
    small = ("--set", "zoo.inr.omega=20", "--set", "zoo.signals.limit=40", "--set", "zoo.views=1")
    with without_ray():
        assert main(["zoo", "build", "smoke", *small, "--out", str(tmp_path / "other")]) == 0
    problem = refusal("edit", run, "--zoo", tmp_path / "other", *out)
    assert "found others, which differ in omega: was 30.0, is 20.0" in problem
    assert "is not a zoo" in refusal("edit", run, "--zoo", tmp_path, *out)
