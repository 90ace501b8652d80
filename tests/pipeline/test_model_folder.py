"""A run's model as a Hugging Face model folder: its card, what loads it, what is refused."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from pipeline.errors import InputError
from pipeline.tasks import Classification, Editing
from pipeline.training.checkpoint import TrainedModel, load_best, read_best
from pipeline.training.config import TrainingConfig
from pipeline.training.start import resolve_start
from tests.pipeline.test_start import TRAINING, made, starting

pytestmark = pytest.mark.fast

CLASSIFIER = TrainingConfig(encoder=TRAINING.encoder, epochs=1)


@pytest.fixture
def run(zoo, tmp_path) -> Path:
    return made(tmp_path / "run", zoo, CLASSIFIER)


def code_of(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


@pytest.mark.parametrize("task", [Classification(), Editing()], ids=lambda task: task.kind)
def test_an_exported_model_has_its_scores_and_code_that_loads_it(command, zoo, tmp_path, task):
    training = CLASSIFIER.model_copy(update={"task": task})
    run, folder = made(tmp_path / "run", zoo, training), tmp_path / "model"
    result = command("export", run, "--out", folder)
    assert result.code == 0, result.err
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["README.md", "config.json", "model.safetensors"]
    front, text = (folder / "README.md").read_text().split("---\n", 2)[1:]
    assert yaml.safe_load(front) == {
        "library_name": "dwszoo",
        "license": "unknown",
        "tags": ["weight-space-learning", task.kind],
    }
    scores = json.loads((run / "metrics.json").read_text())
    for split in ("train", "validation", "test"):
        assert re.search(rf"^\| {split} {scores['monitor']} \| [\d.]+", text, re.MULTILINE), split
    assert "| members | 400 |" in text
    names: dict = {}
    exec(code_of(text).replace("FOLDER", str(folder)).replace("ZOO", str(zoo.folder)), names)
    expected = load_best(run)
    state = zoo[:8]
    if task.kind == "editing":
        name = zoo.space.tensors[0].name
        assert torch.equal(names["edited"][name], expected.model(state)[name])
    else:
        assert torch.equal(names["vectors"], expected.encoder(state))
    assert len(names["table"]) == len(zoo.members("test"))
    assert str(tmp_path) not in text + (folder / "config.json").read_text()


def test_an_exported_model_predicts_and_is_begun_from_like_its_run(command, run, zoo, tmp_path):
    folder, tables = tmp_path / "model", []
    assert command("export", run, "--out", folder).code == 0
    for model in (run, folder):
        out = tmp_path / f"{model.name}.parquet"
        result = command("predict", model, "--zoo", zoo.folder, "--out", out)
        assert result.code == 0, result.err
        tables.append(pq.read_table(out))
    assert tables[0].equals(tables[1])
    begun = [resolve_start(starting(model), zoo.record).identity() for model in (run, folder)]
    assert begun[0] == begun[1]
    assert begun[0]["start"]["sha256"] == read_best(run).card["sha256"]


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(command, run, zoo, tmp_path):
    def refusal(place: Path, out: Path = tmp_path / "model") -> str:
        result = command("export", place, "--out", out)
        assert (result.code, len(result.err.splitlines())) == (2, 1)
        return result.err

    longer = CLASSIFIER.model_copy(update={"epochs": 2})
    half = made(tmp_path / "half", zoo, longer)
    assert "must be fully trained to be exported: expected 2 epochs, found 1" in refusal(half)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_text((run / "config.json").read_text())
    assert "has no checkpoint" in refusal(tmp_path / "new")
    assert "is not a run: expected a folder with the config.json" in refusal(tmp_path)
    assert "must be a new or an empty folder" in refusal(run, run)
    assert not (tmp_path / "model").exists()
    assert command("export", run, "--out", tmp_path / "model").code == 0
    assert "found an exported model" in refusal(tmp_path / "model", tmp_path / "again")


def test_a_damaged_or_another_projects_folder_is_one_sentence(command, run, tmp_path):
    folder = tmp_path / "model"
    assert command("export", run, "--out", folder).code == 0
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(InputError, match=r"as `dwszoo export` writes them, .* must have sha256"):
        TrainedModel.from_pretrained(folder)
    (folder / "config.json").write_text('{"model": "DWSNetClassifier"}')
    with pytest.raises(InputError, match=r"as `dwszoo export` writes them, .*sha256"):
        TrainedModel.from_pretrained(folder)
    with pytest.raises(InputError, match=r"must have config\.json and model\.safetensors"):
        TrainedModel.from_pretrained(tmp_path)
