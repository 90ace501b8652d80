"""A task and an encoder that exist in this file alone, through the real command: nothing else knows them."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from flows.cli import main
from pipeline.errors import InputError
from pipeline.functions import Own
from pipeline.tasks import Editing, Monitor
from pipeline.tasks.own import OwnTask, task_of
from pipeline.training.config import TrainingConfig
from pipeline.training.evaluate import as_column
from pipeline.training.models import build_model
from tests.conftest import dwszoo

CODE = '''
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.tasks import Monitor, Table


class Mean(nn.Module):
    """Reads a network as the means of its tensors."""

    def __init__(self, space, width=8):
        super().__init__()
        self.width = width
        self.names = [spec.name for spec in space.tensors]
        self.layer = nn.Linear(len(self.names), width)

    def forward(self, state):
        means = [state[name].flatten(1).mean(1) for name in self.names]
        return self.layer(torch.stack(means, 1)).relu()


class Quality:
    """How well does an INR render its signal?"""

    columns = ("psnr",)
    group = 1
    monitor = Monitor("error", more_is_better=False)

    def __init__(self, scale=10.0):
        self.scale = scale

    def check(self, zoo):
        pass

    def prepare(self, zoo):
        return {"mean": float(zoo.members("train")["psnr"].to_numpy().mean())}

    def build(self, encoder, prepared):
        model = nn.Sequential(encoder, nn.Linear(encoder.width, 1))
        model.mean = prepared["mean"]
        return model

    def predicted(self, model, batch):
        return model.mean + self.scale * model(batch.state)[:, 0]

    def loss(self, model, batch, keys):
        assert keys.shape == batch.positions.shape and keys.dtype == torch.int64
        return F.mse_loss(self.predicted(model, batch), batch.columns["psnr"])

    def sums(self, model, batch):
        error = (self.predicted(model, batch) - batch.columns["psnr"]).square().sum()
        return {"error": error, "members": torch.tensor(len(batch))}

    def metrics(self, sums):
        error = float(sums["error"] / sums["members"])
        return {"error": error, "loss": error}

    def predictions(self, outputs):
        return {"psnr predicted": outputs[:, 0].numpy()}

    def figures(self, metrics, evaluation):
        return [Table("Errors of quality:", ("metric", "dB"), [("error", f"{metrics['error']:.2f}")])]
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("mine", None)


def test_the_users_own_task_and_encoder_do_all_that_ours_do(folder, built_zoo, zoo, capsys):
    settings = {
        "task.kind": "mine:Quality",
        "task.options": '{"scale": 3}',
        "encoder.kind": "mine:Mean",
        "encoder.options": '{"width": 5}',
    }
    chosen = [
        part for key, value in settings.items() for part in ("--set", f"training.{key}={value}")
    ]
    run = folder / "run"
    result = dwszoo("train", "smoke", "--workers", "1", *chosen, "--zoo", built_zoo, "--out", run)
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert lines[-1]["validation"]["error"] < lines[0]["validation"]["error"]

    assert main(["evaluate", str(run)]) == 2
    assert "add `--trust mine`" in capsys.readouterr().err
    assert "mine" not in sys.modules
    trust = ["--trust", "mine"]
    assert main(["evaluate", str(run), *trust]) == 0
    assert "error " in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["num_parameters"] == 5 * 7 + 6
    table = folder / "p.parquet"
    assert main(["predict", str(run), "--zoo", str(built_zoo), "--out", str(table), *trust]) == 0
    assert pq.read_table(table)["psnr predicted"].null_count == 0
    assert len(pq.read_table(table)) == len(zoo)
    assert main(["report", str(run), *trust]) == 0
    page = (run / "report" / "index.html").read_text()
    assert f"<td class=number>{metrics['error']:.2f}</td>" in page


class Right:
    """Nothing is wrong with it."""

    columns, monitor, layer = ("psnr",), Monitor("error"), nn.Linear(2, 1)

    def check(self, zoo):
        pass

    def prepare(self, zoo):
        return {"mean": 1.0}

    def build(self, encoder, prepared):
        return self.layer

    def loss(self, model, batch, keys):
        return model(torch.ones(3, 2)).mean()

    def metrics(self, sums):
        return {"error": torch.ones(())}

    def predictions(self, outputs):
        return {"a": outputs}

    def figures(self, metrics, evaluation):
        return ()


def call(task: OwnTask, zoo) -> None:
    """Every part once."""
    task.check(zoo)
    model = task.build(None, task.prepare(zoo))
    task.loss(model, None, None)
    task.metrics({})
    task.predictions(task.scores(None))
    task.figures({}, None)


def test_a_task_of_the_users_has_the_parts_that_it_leaves_out(zoo):
    task = OwnTask(Right())
    call(task, zoo)
    assert task.group == 1
    assert task.scores(None) == {}
    assert task.metrics({}) == {"error": 1.0}


def oops(self, *arguments):
    raise KeyError("oops")


@pytest.mark.parametrize(
    ("part", "wrong", "message"),
    [
        ("columns", "psnr", "columns of task Wrong must be names of columns, found 'psnr'"),
        ("columns", ("pnsr",), "has no column 'pnsr' to learn from: .*did you mean 'psnr'"),
        ("monitor", "error", r"monitor of task Wrong must be a pipeline.tasks.Monitor, found 'er"),
        ("group", "2", "group of task Wrong must be a number of members, at least 1, found '2'"),
        ("check", oops, "check of task Wrong failed with KeyError: 'oops'; `dwszoo --debug` shows"),
        ("prepare", lambda self, zoo: {"a": np.float32(1)}, "must return a dict of JSON values"),
        ("build", lambda self, *_: None, "build of task Wrong must return a torch module, found N"),
        ("loss", lambda self, *_: 3.0, "must return one number as a tensor with a gradient, found"),
        ("loss", lambda self, *_: torch.ones(()), "must return one number as a tensor with a grad"),
        ("loss", lambda self, *_: self.layer.weight, "must return one number as a tensor with a g"),
        ("metrics", lambda self, _: {"loss": 1}, "have 'error', which it monitors, found loss"),
        ("metrics", lambda self, _: {"error": "low"}, "metrics of task Wrong must be numbers by"),
        ("predictions", lambda self, _: None, "must return columns by name, found None"),
        ("figures", lambda self, *_: None, "must return figures and tables of pipeline.tasks"),
    ],
)
def test_what_a_task_of_the_users_does_wrong_is_a_sentence(zoo, part, wrong, message):
    made = type("Wrong", (Right,), {part: wrong})()
    with pytest.raises(InputError, match=message):
        call(OwnTask(made), zoo)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("key", [1.0], "predictions must not be named like a column of the catalog, found 'key'"),
        ("a", [[1.0]], r"predictions must have one entry per member, found 'a' of shape \(1, 1\)"),
    ],
)
def test_predictions_that_are_no_columns_are_refused(name, values, message):
    with pytest.raises(InputError, match=message):
        as_column(name, values)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mine:Path", "must return a torch module for training.encoder, found Path"),
        (
            "mine:Mean",
            "does not suit training.task editing: Mean gives one vector per network and no",
        ),
        ("mine:fails", "training.encoder mine:fails failed with ZeroDivisionError: division by"),
    ],
)
def test_an_encoder_of_the_users_that_will_not_do_is_a_sentence(folder, zoo, kind, message):
    more = "\nclass Path:\n    width = 3\n    def __init__(self, space): pass\ndef fails(space): 1 / 0\n"
    (folder / "mine.py").write_text(CODE + more)
    training = TrainingConfig(task=Editing(), encoder=Own(kind=kind))
    prepared = task_of(training.task, ()).prepare(zoo)
    with pytest.raises(InputError, match=message):
        build_model(training, zoo.space, prepared, {"mine"})
