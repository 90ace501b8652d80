"""A task and an encoder that are defined only in this file, through the real command."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from flows.cli import main
from pipeline.errors import InputError
from pipeline.functions import Own
from pipeline.tasks import Contrastive, Editing, Figure, Monitor
from pipeline.tasks.augmentation import Augmentation
from pipeline.tasks.own import OwnTask, task_of
from pipeline.training.config import TrainingConfig
from pipeline.training.evaluate import as_column
from pipeline.training.loader import Feed
from pipeline.training.models import build_model, num_parameters_of, try_encoder
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
        cells = [("error", f"{metrics['error']:.2f}")]
        return [Table("Errors of quality:", ("metric", "dB"), cells)]
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
    """A task without a mistake."""

    columns, monitor, layer = ("psnr",), Monitor("error"), nn.Linear(2, 1)

    def check(self, zoo):
        pass

    def prepare(self, zoo):
        return {"mean": 1.0}

    def build(self, encoder, prepared):
        return self.layer

    def loss(self, model, batch, keys):
        return model(torch.ones(3, 2)).mean()

    def sums(self, model, batch):
        return {"error": 1.0}

    def metrics(self, sums):
        return {"error": sums["error"]}

    def predictions(self, outputs):
        return {"a": outputs}

    def figures(self, metrics, evaluation):
        return ()


def call(task: OwnTask, zoo) -> None:
    """Call each method once."""
    task.check(zoo)
    model = task.build(None, task.prepare(zoo))
    task.loss(model, None, None)
    task.metrics(task.sums(model, None))
    task.predictions(task.scores(None))
    for figure in task.figures({}, None):
        figure.draw(Path("a.svg"))


def test_a_task_of_the_users_has_the_parts_that_it_leaves_out(zoo):
    task = OwnTask(Right())
    call(task, zoo)
    assert task.group == 1
    assert task.scores(None) == {}
    assert task.metrics(task.sums(None, None)) == {"error": 1.0}


def test_a_figure_of_the_users_is_drawn_into_a_file_of_each_kind():
    drawn: list[Path] = []
    task = Right()
    task.figures = lambda *_: [Figure("a.svg", "A picture.", drawn.append)]
    for path in ("a.svg", "a"):
        OwnTask(task).figures({}, None)[0].draw(Path(path))
    assert drawn == [Path("a.svg"), Path("a.png"), Path("a.svg")]


def oops(self, *arguments):
    raise KeyError("oops")


@pytest.mark.parametrize(
    ("part", "wrong", "message"),
    [
        ("columns", "psnr", "columns of task Wrong must be names of columns, found 'psnr'"),
        ("columns", None, "columns of task Wrong must be names of columns, found None"),
        ("columns", ("pnsr",), "has no column 'pnsr' to learn from: .*did you mean 'psnr'"),
        ("monitor", "error", r"monitor of task Wrong must be a pipeline.tasks.Monitor, found 'er"),
        ("group", "2", "group of task Wrong must be a number of members, at least 1, found '2'"),
        ("check", oops, "check of task Wrong failed with KeyError: 'oops'; `dwszoo --debug` shows"),
        ("prepare", lambda self, zoo: {"a": np.float32(1)}, "must return a dict of JSON values"),
        ("build", lambda self, *_: None, "build of task Wrong must return a torch module, found N"),
        ("loss", lambda self, *_: 3.0, "must return one number as a tensor with a gradient, found"),
        ("loss", lambda self, *_: torch.ones(()), "must return one number as a tensor with a grad"),
        ("loss", lambda self, *_: self.layer.weight, "must return one number as a tensor with a g"),
        (
            "sums",
            lambda self, *_: None,
            "sums of task Wrong must return tensors by name, found Non",
        ),
        ("sums", lambda self, *_: {"a": "b"}, "must return tensors by name, found {'a': 'b'}"),
        (
            "metrics",
            lambda self, _: [1],
            r"metrics of task Wrong must be numbers by name, found \[",
        ),
        ("metrics", lambda self, _: {"loss": 1}, "have 'error', which it monitors, found loss"),
        ("metrics", lambda self, _: {"error": "low"}, "metrics of task Wrong must be numbers by"),
        ("predictions", lambda self, _: None, "must return columns by name, found None"),
        (
            "figures",
            lambda self, *_: [Figure("a.svg", "", oops)],
            "figure a.svg of task Wrong failed with KeyError: 'oops'",
        ),
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
        (7, [1.0], "predictions must be named by strings, found 7"),
        ("a", [[1.0]], r"predictions must be columns, found 'a' that is none: its shape is \(1"),
        ("a", [object()], "predictions must be columns, found 'a' that is none: Could not convert"),
        ("a", torch.ones(1).bfloat16(), "found 'a' that is none: Got unsupported ScalarType"),
        ("a", [1.0, 2.0], "must have one entry per member, found 2 in 'a' for 1 members"),
    ],
)
def test_predictions_that_are_no_columns_are_refused(name, values, message):
    with pytest.raises(InputError, match=message):
        as_column(name, values, 1)


WRONG = """

class Path:
    width = 3

    def __init__(self, space): pass


def fails(space): 1 / 0


class Listed(Mean):
    def __init__(self, space):
        super().__init__(space, 5)
        self.width = "5"


class Bare(Mean):
    def features(self):
        return self


class Narrow(Mean):
    def forward(self, state):
        return super().forward(state)[:, 1:]


class Broken(Mean):
    def forward(self, state):
        return state["nothing"]


class Double(Mean):
    def __init__(self, space):
        super().__init__(space)
        self.double()
"""


DRAWN = """

class Drawn(Mean):
    \"\"\"Computes with numbers as it is made.\"\"\"

    def __init__(self, space):
        super().__init__(space)
        self.scale = self.layer.weight.abs().max().item()


class Centred(Quality):
    def build(self, encoder, prepared):
        model = super().build(encoder, prepared)
        model.first = model[1].bias.tolist()
        return model
"""


def test_code_of_the_users_may_compute_while_it_makes_a_model(folder, zoo):
    (folder / "mine.py").write_text(CODE + DRAWN)
    training = TrainingConfig(task=Own(kind="mine:Centred"), encoder=Own(kind="mine:Drawn"))
    assert num_parameters_of(training, zoo.space, {"mean": 1.0}, {"mine"}) == 8 * 7 + 9


def test_columns_of_a_task_may_be_named_twice_but_must_fit_into_a_batch(zoo):
    task = type("Wrong", (Right,), {"columns": ("psnr", "view", "psnr")})()
    batch = next(Feed.of(OwnTask(task), zoo, "test").whole())
    assert list(batch.columns) == ["psnr", "view"]
    task = type("Wrong", (Right,), {"columns": ("seed",)})()
    with pytest.raises(InputError, match=r"column 'seed' of zoo .* numbers up to 9223372036854775"):
        OwnTask(task).check(zoo)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mine:Path", "must return a torch module for training.encoder, found Path"),
        (
            "mine:Mean",
            "does not suit training.task editing: Mean gives one vector per network and no",
        ),
        ("mine:fails", "training.encoder mine:fails failed with ZeroDivisionError: division by"),
        (
            "mine:Listed",
            "width of training.encoder mine:Listed must be an integer .* found '5'",
        ),
        (
            "mine:Bare",
            "features of Bare must be a module with .* found Bare without space, channels",
        ),
    ],
)
def test_an_encoder_of_the_users_that_will_not_do_is_a_sentence(folder, zoo, kind, message):
    (folder / "mine.py").write_text(CODE + WRONG)
    training = TrainingConfig(task=Editing(), encoder=Own(kind=kind))
    prepared = task_of(training.task, ()).prepare(zoo)
    with pytest.raises(InputError, match=message):
        build_model(training, zoo.space, prepared, {"mine"})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mine:Narrow", r"must return vectors \(2, 8\) of 2 networks, .* found \(2, 7\)"),
        (
            "mine:Broken",
            "training.encoder mine:Broken failed with KeyError: 'nothing'; `dwszoo --d",
        ),
        ("mine:Double", "must have parameters of torch.float32, found torch.float64"),
    ],
)
def test_an_encoder_of_the_users_is_tried_before_workers_start(folder, zoo, kind, message):
    (folder / "mine.py").write_text(CODE + WRONG)
    try_encoder(Own(kind="mine:Mean"), zoo, {"mine"})
    with pytest.raises(InputError, match=message):
        try_encoder(Own(kind=kind), zoo, {"mine"})


def test_an_encoder_needs_no_more_than_a_width_to_tell_networks_apart(folder, zoo):
    task = Contrastive(augmentation=Augmentation(noise=0.1))
    training = TrainingConfig(task=task, encoder=Own(kind="mine:Mean"))
    _, model = build_model(training, zoo.space, task.prepare(zoo), {"mine"})
    task.attach(model, zoo)
    batch = next(Feed.of(task, zoo, "validation").whole())
    assert task.loss(model, batch, batch.positions).requires_grad
