"""The user's own code that a run folder names is called only with permission."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from flows.cli import main
from pipeline.config import FitConfig, SignalsConfig, SirenConfig, ZooConfig
from pipeline.functions import modules_named
from tests.pipeline.test_function import build
from tests.pipeline.worlds import without_ray

MODULE = """
from pathlib import Path
from pipeline.encoders import DWSNetConfig
from pipeline.tasks.classification import Classification

Path(__file__).with_suffix(".imported").touch()

def task(**options):
    return Classification(**options)

def encoder(space, **options):
    return DWSNetConfig(**options).build(space)
"""


@pytest.fixture
def run(smoke_run, tmp_path, monkeypatch):
    """A run whose task and encoder are functions of a module in the working directory."""
    (tmp_path / "theirs.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    run = Path(shutil.copytree(smoke_run.folder, tmp_path / "run", symlinks=True))
    for file in (run / "config.json", *run.glob("checkpoints/*/model.json")):
        content = json.loads(file.read_text())
        for name in ("task", "encoder"):
            options = content.get("training", content)[name]
            del options["kind"]
            own = {"kind": f"theirs:{name}", "options": options}
            content.get("training", content)[name] = own
        file.write_text(json.dumps(content))
    yield run
    sys.modules.pop("theirs", None)


@pytest.mark.parametrize("command", ["evaluate", "predict", "report"])
def test_a_run_calls_nothing_that_is_not_trusted(run, command, capsys):
    arguments = {
        "evaluate": ["evaluate", run],
        "predict": ["predict", run, "--zoo", run / "zoo", "--out", "p.csv"],
        "report": ["report", run],
    }
    for more in ([], ["--trust", "their"], ["--trust", "theirs:task"]):
        assert main([*map(str, arguments[command]), *more]) == 2
        told = capsys.readouterr().err
        assert "training.task is made by theirs:task, code that is run only if you trust it" in told
        assert len(told.splitlines()) == 1
    assert not Path("theirs.imported").exists()
    assert not Path("p.csv").exists()
    assert main([*map(str, arguments[command]), "--trust", "theirs"]) == 0
    assert Path("theirs.imported").exists()


SIGNALS = """
import numpy as np

def make(size):
    return np.random.default_rng(0).uniform(size=(40, 6, 6, 1)), np.arange(40) % 2
"""
EDITING = """
[zoo.signals]
source = "steps:make"

[training]
batch_size = 8
epochs = 1
task = {kind = "editing", operation = "blur"}
encoder = {channels = 4, num_layers = 2}
baselines = []
"""


@pytest.fixture
def signals_zoo(tmp_path, monkeypatch):
    """A zoo whose signals are made by a function of a module in the working directory."""
    (tmp_path / "steps.py").write_text(SIGNALS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    signals, inr = SignalsConfig(source="steps:make"), SirenConfig(hidden=(4,))
    zoo = build(ZooConfig(signals=signals, inr=inr, fit=FitConfig(max_steps=3)), tmp_path / "zoo")
    del sys.modules["steps"]
    yield zoo.folder
    sys.modules.pop("steps", None)


def test_signals_of_the_users_own_are_made_for_who_names_or_trusts_their_module(
    signals_zoo, tmp_path, capsys
):
    def refusal(*arguments) -> str:
        assert main([*map(str, arguments)]) == 2
        told = capsys.readouterr().err
        assert len(told.splitlines()) == 1
        assert "steps" not in sys.modules
        return told

    run, picture = tmp_path / "run", tmp_path / "zoo.svg"
    editing = ("--set", "training.task.kind=editing", "--zoo", signals_zoo, "--out", run)
    told = refusal("train", "smoke", *editing)
    assert "made by steps:make, code that is run only with `--trust steps`" in told
    (tmp_path / "mine.toml").write_text(EDITING)
    train = ("train", "mine.toml", "--workers", "1", "--zoo", signals_zoo, "--out", run)
    with without_ray():
        assert main([*map(str, train)]) == 0
    capsys.readouterr()
    assert "only with `--trust steps`" in refusal("evaluate", run)
    assert main(["zoo", "render", str(signals_zoo), "--out", str(picture)]) == 0
    assert "original<" not in picture.read_text()
    assert "steps" not in sys.modules
    trust = ("--trust", "steps")
    assert main(["evaluate", str(run), *trust]) == 0
    assert "trivial mse" in capsys.readouterr().out
    assert main(["report", str(run), *trust]) == 0
    assert (run / "report" / "edits.png").exists()
    assert main(["zoo", "render", str(signals_zoo), "--out", str(picture), *trust]) == 0
    assert "original<" in picture.read_text()


def test_a_configuration_names_the_modules_of_all_its_functions():
    config = ZooConfig(signals=SignalsConfig(source="steps:make"))
    assert modules_named(config) == {"steps"}
    assert modules_named(ZooConfig()) == set()
