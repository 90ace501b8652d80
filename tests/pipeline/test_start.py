"""Starting from another run: its best model, what is refused, and what a probe of it writes."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import safetensors.torch
import torch

from flows.stages import assess, learn
from pipeline.archive.files import sha256, write_json
from pipeline.archive.zoo import Zoo
from pipeline.encoders import DWSNetConfig
from pipeline.errors import InputError
from pipeline.report.markdown import data_uri
from pipeline.tasks import Editing
from pipeline.tasks.contrastive import Contrastive
from pipeline.tasks.own import task_of
from pipeline.tasks.reconstruction import Reconstruction
from pipeline.training.checkpoint import load_best, model_card, read_best
from pipeline.training.checkpoint_folders import checkpoint_folder, link_to
from pipeline.training.config import StartConfig, TrainingConfig
from pipeline.training.history import EpochMetrics, History
from pipeline.training.models import build_model, calibrate, num_parameters_of
from pipeline.training.start import begin_from, check_frozen, resolve_start
from tests.pipeline.worlds import in_worlds

TRAINING = TrainingConfig(
    task=Contrastive(positives="views"),
    encoder=DWSNetConfig(channels=4, num_layers=2, width=8),
)


@pytest.fixture
def run(zoo, tmp_path) -> Path:
    return made(tmp_path / "run", zoo, TRAINING)


def made(folder: Path, zoo: Zoo, training: TrainingConfig) -> Path:
    """A finished run with random weights."""
    folder.mkdir()
    learn.claim(folder, zoo.record, training)
    link_to(folder / "zoo", zoo.folder)
    torch.manual_seed(5)
    task = task_of(training.task, ())
    prepared = task.prepare(zoo)
    encoder, model = build_model(training, zoo.space, prepared, ())
    calibrate(encoder, zoo)
    weights = safetensors.torch.save(model.state_dict())
    card = model_card(training, zoo.record, prepared, encoder, model)
    epoch = EpochMetrics(1, 1.0, {task.monitor.metric: 1.0}, 1e-3, 1.0, 1.0)
    checkpoint = checkpoint_folder(folder, 1)
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(weights)
    write_json(checkpoint / "model.json", card | {"sha256": sha256(weights)})
    write_json(
        checkpoint / "training.json",
        History(task.monitor).and_then(epoch).as_json(),
    )
    return folder


def starting(run: Path, **changed) -> TrainingConfig:
    start = StartConfig(checkpoint=run, **changed.pop("start", {}))
    return TrainingConfig(encoder=TRAINING.encoder, start=start, **changed)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_run_begins_with_the_encoder_of_another(run, zoo, freeze):
    config = resolve_start(starting(run, start={"freeze": freeze}), zoo.record)
    torch.manual_seed(6)
    encoder, model = build_model(config, zoo.space, task_of(config.task, ()).prepare(zoo), ())
    expected = load_best(run).encoder.state_dict()
    assert any(not torch.equal(x, expected[name]) for name, x in encoder.state_dict().items())
    begin_from(config.start, encoder, is_new=True)
    assert all(torch.equal(x, expected[name]) for name, x in encoder.state_dict().items())
    assert {parameter.requires_grad for parameter in encoder.parameters()} == {not freeze}
    assert all(parameter.requires_grad for parameter in model.head.parameters())


def train_frozen(worker, barrier, zoo: Path, start: Path, run: Path):
    from pipeline.training.loop import train_loop

    config, opened = starting(start, start={"freeze": True}, epochs=1, zero_stage=1), Zoo.open(zoo)
    run.mkdir(exist_ok=True)
    train_loop(opened, run, config, task_of(config.task, ()).prepare(opened), worker)


def test_a_frozen_encoder_stays_as_it_was_under_zero(run, built_zoo, tmp_path):
    in_worlds(train_frozen, [2], tmp_path, built_zoo, run, tmp_path / "frozen")
    before, after = read_best(run), read_best(tmp_path / "frozen")
    of_encoder = after.card["encoder_tensors"].values()
    assert 0 < len(of_encoder) < len(after.tensors)
    for name, tensor in after.tensors.items():
        old = before.tensors.get(name)
        assert (old is not None and torch.equal(tensor, old)) == (name in of_encoder)


def test_the_model_that_is_begun_from_is_part_of_a_runs_identity(run, zoo, tmp_path):
    """Its location is not: the same model gives the same run wherever it is."""
    file = checkpoint_folder(run, 1) / "model.json"
    digest, out = json.loads(file.read_text())["sha256"], tmp_path / "finetuned"
    out.mkdir()
    learn.claim(out, zoo.record, starting(run))
    written = json.loads((out / "config.json").read_text())["training"]["start"]
    assert written == {"sha256": digest, "freeze": False}
    run.rename(tmp_path / "moved")
    learn.claim(out, zoo.record, starting(tmp_path / "moved"))
    with pytest.raises(InputError, match=f"with sha256 other, found {digest}"):
        learn.claim(out, zoo.record, starting(tmp_path / "moved", start={"sha256": "other"}))


def test_another_encoder_another_space_and_no_checkpoint_are_refused(run, zoo, tmp_path):
    config = starting(run)
    wider = config.model_copy(update={"encoder": DWSNetConfig(channels=5, num_layers=2, width=8)})
    with pytest.raises(InputError, match=r"another encoder, .* channels: was 4, is 5"):
        resolve_start(wider, zoo.record)
    shapes = {**zoo.record.tensors, "layers.0.weight": (8, 3)}
    with pytest.raises(InputError, match="start from a run on networks of the same shape"):
        resolve_start(config, zoo.record.model_copy(update={"tensors": shapes}))
    with pytest.raises(InputError, match="has no checkpoint"):
        resolve_start(starting(tmp_path / "nothing"), zoo.record)
    with pytest.raises(InputError, match="must be the folder of a run, found null"):
        resolve_start(starting(None), zoo.record)


def test_what_a_run_never_trained_is_not_frozen(zoo, tmp_path):
    """An editor uses features of entries, but no vectors."""
    editing = TRAINING.model_copy(update={"task": Editing()})
    run = made(tmp_path / "editor", zoo, editing)
    for freeze in (True, False):
        config = starting(run, start={"freeze": freeze})
        prepared = task_of(config.task, ()).prepare(zoo)
        refused = pytest.raises(
            InputError, match="has not learned vectors of networks, which task class"
        )
        with refused if freeze else nullcontext():
            check_frozen(config, zoo.space, prepared)
    again = starting(run, start={"freeze": True}, task=Editing())
    check_frozen(again, zoo.space, task_of(again.task, ()).prepare(zoo))


def test_a_model_with_a_decoder_is_counted_without_memory(zoo):
    config = TRAINING.model_copy(update={"task": Reconstruction()})
    assert num_parameters_of(config, zoo.space, task_of(config.task, ()).prepare(zoo), ()) > 1000


def test_a_probe_of_a_run_is_a_table_and_part_of_its_report(command, run, built_zoo):
    result = command("probe", run)
    assert result.code == 0, result.err
    assert "frozen encoder, softmax regression" in result.out
    readings = json.loads((run / "probe.json").read_text())
    assert {reading["target"] for reading in readings} == {"label"}
    assert {reading["share"] for reading in readings} == {0.01, 0.1, 1.0}
    assess.report(run)
    page = (run / "report" / "index.html").read_text()
    assert "frozen encoder, softmax regression" in page
    assert data_uri(run / "report" / "embedding.png") in page
    refused = command("probe", run, "--zoo", built_zoo, "--target", "labl")
    assert refused.code == 2
    assert "has no column 'labl'" in refused.err
