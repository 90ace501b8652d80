"""Each example does what it says, on small data."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from flows.cli import main as dwszoo
from pipeline.archive import Zoo
from tests.pipeline.worlds import without_ray

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = (
    "training.epochs=2",
    "training.baselines=[]",
    "training.batch_size=16",
    "resources.workers=1",
)


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples_are_short():
    assert all(len(path.read_text().splitlines()) <= 60 for path in EXAMPLES.glob("*.py"))


def test_every_example_is_tried():
    tried = Path(__file__).read_text()
    assert all(f"{path.stem}" in tried for path in EXAMPLES.glob("*.py"))


@pytest.mark.fast
def test_a_layer_in_a_model_learns():
    assert example("layer_in_a_model").main(100) < 0.5 / 12


@pytest.mark.fast
def test_a_zoo_in_pytorch_and_with_nothing_of_ours(built_zoo):
    assert 0 <= example("zoo_in_pytorch").main(built_zoo, 1) <= 1
    assert example("read_archive").main(built_zoo) == len(Zoo.open(built_zoo).members("train"))


def test_own_images(tmp_path):
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if label < 2:
            folder = tmp_path / "images" / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((15 * image).astype("uint8")).save(folder / f"{i}.png")
    small = (
        *SMALL,
        "zoo.signals.limit=60",
        "zoo.signals.size=8",
        "zoo.views=1",
        "zoo.fit.max_steps=20",
    )
    with without_ray():
        accuracy = example("own_images").main(tmp_path / "images", tmp_path / "run", *small)
    assert 0 <= accuracy <= 1


def test_predict_accuracy(tmp_path):
    small = (*SMALL, "zoo.num_runs=40", "zoo.checkpoints=[]", "zoo.hyperparameters.epochs=[1]")
    with without_ray():
        scores = example("predict_accuracy").main(tmp_path / "run", *small)
    assert scores.keys() == {"DWSNet", "boosting"}


def test_edit_networks(tmp_path):
    small = (*SMALL, "zoo.signals.limit=60", "zoo.views=1", "zoo.fit.max_steps=50")
    with without_ray():
        before, after = example("edit_networks").main(tmp_path / "run", *small)
    assert after < before
    assert (tmp_path / "run" / "edited.png").exists()


def test_custom_task_and_encoder(built_zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", [*sys.path])
    own = {"task": "custom_task:Quality", "encoder": "custom_encoder:Neurons"}
    settings = (*SMALL, *(f"training.{part}.kind={kind}" for part, kind in own.items()))
    chosen = [word for setting in settings for word in ("--set", setting)]
    run = str(tmp_path / "run")
    with without_ray():
        assert dwszoo(["train", "smoke", *chosen, "--zoo", str(built_zoo), "--out", run]) == 0
    trust = [word for kind in own.values() for word in ("--trust", kind.partition(":")[0])]
    assert dwszoo(["evaluate", run, *trust]) == 0
