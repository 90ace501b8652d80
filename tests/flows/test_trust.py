"""Code of the user's own that a run folder names is called by nobody who did not say so."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from flows.cli import main

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
