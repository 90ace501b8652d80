"""A task and an encoder that exist in this file alone, through the real command: nothing else knows them."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from pipeline.errors import InputError
from pipeline.tasks import Monitor
from pipeline.tasks.own import OwnTask
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
    result = dwszoo("train", "smoke", *chosen, "--zoo", built_zoo, "--out", run)
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


def test_what_a_task_of_the_users_returns_is_checked():
    class Wrong:
        monitor = Monitor("error")
        made = np.float32(1)

        def prepare(self, zoo):
            return {"mean": self.made}

        def metrics(self, sums):
            return sums

    task = OwnTask(Wrong())
    assert task.group == 1
    assert task.scores(None) == {}
    with pytest.raises(InputError, match="prepare of task Wrong must return a dict of JSON"):
        task.prepare(None)
    with pytest.raises(InputError, match="must have 'error', which it monitors, found loss"):
        task.metrics({"loss": 1})
    assert task.metrics({"error": 1}) == {"error": 1.0}
