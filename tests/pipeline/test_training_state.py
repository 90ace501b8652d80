"""Checkpoints resume in any world and ZeRO stage, are never unpickled, and hold good steps."""

import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from flows.recipes import smoke
from flows.stages import learn
from pipeline.encoders.dwsnet import DWSNetConfig
from pipeline.encoders.transformer import TransformerConfig
from pipeline.errors import ArchiveError, InputError
from pipeline.training.checkpoint import load_best, read_newest, require_resumable, write
from pipeline.training.checkpoint_folders import checkpoints
from pipeline.training.config import TrainingConfig
from tests.conftest import metrics_of
from tests.pipeline.worlds import in_worlds

STAGES, WORLDS = (0, 1, 2, 3), (1, 3)
"""Three ranks do not divide the batch of 32."""
SOURCES = [(stage, world) for stage in STAGES for world in WORLDS]
MIDDLE = "epoch-0001-step-000004"


def target_of(stage: int, world: int) -> tuple[int, int]:
    """The (stage, world) that resumes what (stage, world) saved: both differ, each occurs once."""
    return (stage + 1 + world // 2) % 4, 4 - world


def train(zoo: Path, run: Path, worker, **changes) -> str | None:
    """Train an encoder without batch norm, which computes the same in all worlds."""
    from pipeline.archive.zoo import Zoo
    from pipeline.tasks.own import task_of
    from pipeline.training.loop import train_loop

    changes = {"encoder": TransformerConfig(head_dim=2), "epochs": 1} | changes
    training = smoke().training.model_copy(update=changes)
    run.mkdir(parents=True, exist_ok=True)
    opened = Zoo.open(zoo)
    prepared = task_of(training.task, ()).prepare(opened)
    return train_loop(opened, run, training, prepared, worker)


def matrix(worker, barrier, zoo: Path, folder: Path, targets=lambda *source: [target_of(*source)]):
    """Train at every stage, then resume from the middle with another stage in another world."""
    import torch.distributed as dist

    for stage in STAGES:
        run = folder / f"{stage}-{worker.world_size}"
        train(zoo, run, worker, zero_stage=stage, checkpoint_steps=4, checkpoints_kept=9)
        assert stage == 3 or "torch._dynamo" not in sys.modules  # which takes seconds to import
    barrier.wait()
    for source in SOURCES:
        for stage, world in targets(*source):
            if world == worker.world_size:
                run = folder / f"{source[0]}-{source[1]} to {stage}-{world}"
                if worker.rank == 0:
                    here, there = folder / f"{source[0]}-{source[1]}", run / "checkpoints" / MIDDLE
                    shutil.copytree(here / "checkpoints" / MIDDLE, there)
                dist.barrier()
                train(zoo, run, worker, zero_stage=stage)


def spoil(steps: dict[int, str]):
    """Make these steps of the last rank, counted from 0, not finite; return the original loss.

    With a loss that is infinite, huge inputs move the running statistics of batch norm.
    """
    import torch.distributed as dist

    from pipeline.tasks.classification import Classification

    original, count = Classification.loss, iter(range(10**6))

    def loss(task, model, batch, keys):
        what = steps.get(next(count)) if dist.get_rank() == dist.get_world_size() - 1 else None
        if what == "loss and inputs":
            batch = batch.with_state({name: x * 1e10 for name, x in batch.state.items()})
        value = original(task, model, batch, keys)
        match what:
            case "gradient":
                return value + (0 * value).sqrt()
            case "loss" | "loss and inputs":
                return value + torch.inf
        return value

    Classification.loss = loss
    return original


def bad_steps(worker, zoo: Path, folder: Path):
    """Two bad steps of eight at every stage, with batch norm; then only bad steps."""
    from pipeline.tasks.classification import Classification

    encoder = DWSNetConfig(channels=3, num_layers=2, width=8)
    for stage in STAGES:
        original = spoil({2: "gradient", 5: "loss and inputs" if stage else "loss"})
        train(zoo, folder / f"bad-{stage}", worker, encoder=encoder, zero_stage=stage)
        Classification.loss = original
    original = spoil(dict.fromkeys(range(11, 100), "loss"))
    told = train(zoo, folder / "bad", worker, epochs=3, max_skipped_steps=3, checkpoint_steps=2)
    Classification.loss = original
    if worker.rank == 0:
        (folder / "bad" / "told").write_text(str(told))


def precisions(worker, zoo: Path, folder: Path):
    for precision in ("float32", "bf16"):
        encoder = DWSNetConfig(channels=8, num_layers=2, width=32)
        train(zoo, folder / precision, worker, encoder=encoder, epochs=8, precision=precision)


def averages(worker, barrier, zoo: Path, folder: Path):
    """Average the weights of training, then of what resumes the other world from the middle."""
    import torch.distributed as dist

    options = {"ema_decay": 0.9, "zero_stage": 0 if worker.world_size == 1 else 2}
    run, other = (folder / str(world) for world in (worker.world_size, 4 - worker.world_size))
    train(zoo, run, worker, checkpoint_steps=4, checkpoints_kept=9, **options)
    barrier.wait()
    resumed = folder / f"{worker.world_size} resumed"
    if worker.rank == 0:
        shutil.copytree(other / "checkpoints" / MIDDLE, resumed / "checkpoints" / MIDDLE)
    dist.barrier()
    train(zoo, resumed, worker, **options)


def everything(worker, barrier, zoo: Path, folder: Path):
    matrix(worker, barrier, zoo, folder / "matrix")
    averages(worker, barrier, zoo, folder / "averages")
    if worker.world_size == 3:
        bad_steps(worker, zoo, folder)
    else:
        precisions(worker, zoo, folder)


@pytest.fixture(scope="module")
def runs(built_zoo, tmp_path_factory) -> Path:
    """Folder of runs, all trained by four processes: a world of one beside a world of three."""
    folder = tmp_path_factory.mktemp("worlds")
    in_worlds(everything, WORLDS, folder, built_zoo, folder)
    return folder


def figures(run: Path) -> list[float]:
    (line,) = metrics_of(run)
    return [line["train_loss"], line["validation"]["loss"], line["gradient_norm"]]


def test_every_stage_and_world_goes_on_with_what_every_other_saved(runs):
    expected = figures(runs / "matrix" / "0-1")
    found = [path for path in (runs / "matrix").iterdir()]
    assert len(found) == len(SOURCES) * 2
    for run in found:
        assert figures(run) == pytest.approx(expected, rel=1e-5), run.name


def test_averages_of_weights_resume_at_any_stage_and_in_any_world(runs):
    (expected, *others) = [figures(run) for run in sorted((runs / "averages").iterdir())]
    assert len(others) == 3
    for found in others:
        assert found == pytest.approx(expected, rel=1e-5)
    plain, newest = figures(runs / "matrix" / "0-1"), read_newest(runs / "averages" / "1")
    assert expected[0] == pytest.approx(plain[0], rel=1e-5)  # the loss of training is the same
    assert expected[1] != pytest.approx(plain[1], rel=1e-4)
    last = read_newest(runs / "matrix" / "0-1").model
    distances = [
        sum(float((tensor - last[name]).abs().sum()) for name, tensor in state.items())
        for state in (newest.weights, newest.model)
    ]
    assert 10 * distances[0] < distances[1], distances


@pytest.mark.parametrize(("field", "value"), [("ema_decay", 0.9), ("compile", True)])
def test_what_needs_whole_weights_is_refused_where_a_zero_stage_splits_them(field, value):
    with pytest.raises(ValidationError, match=rf"at most 2 with training.{field}"):
        TrainingConfig(**{field: value}, zero_stage=3)


def test_moments_are_saved_alike_by_every_stage_and_world(runs):
    newest, other = read_newest(runs / "matrix" / "0-1"), read_newest(runs / "matrix" / "3-3")
    assert newest.moments.keys() == other.moments.keys()
    for name, moment in newest.moments.items():
        torch.testing.assert_close(other.moments[name], moment, rtol=1e-4, atol=1e-7)
    assert max(moment.abs().max() for moment in newest.moments.values()) > 1e-3


def test_a_model_is_whole_at_every_stage(runs):
    shapes = {
        (stage, world): {
            name: (tuple(x.shape), x.dtype) for name, x in read_best_tensors(runs, stage, world)
        }
        for stage, world in SOURCES
    }
    assert all(found == shapes[0, 1] for found in shapes.values())
    assert all(0 not in shape for shape, _ in shapes[0, 1].values())


def read_best_tensors(runs: Path, stage: int, world: int):
    return load_best(runs / "matrix" / f"{stage}-{world}").model.state_dict().items()


def test_bad_steps_are_skipped_alike_at_every_stage(runs):
    """They affect neither weights nor running statistics."""
    expected = figures(runs / "bad-0")
    assert np.isfinite(expected).all()
    for stage in STAGES:
        run = runs / f"bad-{stage}"
        assert metrics_of(run)[0]["skipped_steps"] == 2
        assert read_newest(run).progress.updates == 6
        assert figures(run) == pytest.approx(expected, rel=1e-4)


def test_bad_steps_in_a_row_end_training_and_what_was_good_is_kept(runs):
    told = (runs / "bad" / "told").read_text()
    assert told == "in epoch 2 3 steps in a row had no finite loss or gradient"
    names = [folder.name for folder in checkpoints(runs / "bad")]
    assert names == ["epoch-0001", "epoch-0002-step-000002"]
    assert load_best(runs / "bad").epoch == 1
    assert all(tensor.isfinite().all() for tensor in read_newest(runs / "bad").model.values())


def test_bfloat16_trains_to_the_same_loss_with_weights_in_float32(runs):
    full, half = (metrics_of(runs / precision) for precision in ("float32", "bf16"))
    assert full[-1]["train_loss"] < 0.9 * full[0]["train_loss"]
    assert half[-1]["train_loss"] == pytest.approx(full[-1]["train_loss"], rel=0.05)
    assert half[0]["train_loss"] != full[0]["train_loss"]
    snapshot = read_newest(runs / "bf16")
    floats = [
        x for x in (*snapshot.model.values(), *snapshot.moments.values()) if x.is_floating_point()
    ]
    assert {tensor.dtype for tensor in floats} == {torch.float32}


class LeavesAMark:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_no_pickle_of_a_run_folder_is_read(runs, tmp_path):
    run, mark = tmp_path / "run", tmp_path / "mark"
    shutil.copytree(runs / "matrix" / "0-1", run)
    for newest in checkpoints(run):
        for name in ("deepspeed/mp_rank_00_model_states.pt", "latest", "model.pt"):
            (newest / name).parent.mkdir(exist_ok=True)
            (newest / name).write_bytes(pickle.dumps(LeavesAMark(mark)))
    assert read_newest(run) is not None
    for name in ("optimizer.safetensors", "model.safetensors", "training.json"):
        (checkpoints(run)[-1] / name).write_bytes(pickle.dumps(LeavesAMark(mark)))
        with pytest.raises(ArchiveError, match="is damaged"):
            read_newest(run)
    (checkpoints(run)[-1] / "optimizer.safetensors").unlink()
    with pytest.raises(
        InputError,
        match=r"expected optimizer\.safetensors, found none: older versions wrote pickles",
    ):
        require_resumable(run)
    assert not mark.exists()
    pickle.loads(pickle.dumps(LeavesAMark(mark)))
    assert mark.exists()


def test_a_checkpoint_that_is_cut_short_or_changed_is_refused(runs, tmp_path):
    for name in ("optimizer.safetensors", "model.safetensors"):
        run = Path(shutil.copytree(runs / "matrix" / "0-1", tmp_path / name))
        file = checkpoints(run)[-1] / name
        content = file.read_bytes()
        for damaged in (content[:-1], content[:100], b"", content[:-1] + bytes([content[-1] ^ 1])):
            file.write_bytes(damaged)
            with pytest.raises(ArchiveError, match=f"{name} must have sha256"):
                read_newest(run)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(runs, tmp_path, monkeypatch):
    run = Path(shutil.copytree(runs / "matrix" / "0-1", tmp_path / "run"))
    before, snapshot = checkpoints(run), read_newest(run)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.training.checkpoint.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        write(run, snapshot, {}, 1)
    assert checkpoints(run) == before
    assert not list(run.rglob(".*"))


def test_the_newest_checkpoints_and_the_best_are_kept(runs, tmp_path):
    run = Path(shutil.copytree(runs / "float32", tmp_path / "run"))
    snapshot = read_newest(run)
    best = f"epoch-{snapshot.history.best.epoch:04d}"
    for step in range(1, 4):
        snapshot.progress.step = step
        write(run, snapshot, {}, 2)
    epoch = f"epoch-{snapshot.progress.epoch:04d}"
    kept = {f"{epoch}-step-000002", f"{epoch}-step-000003", best}
    assert {folder.name for folder in checkpoints(run)} == kept


def test_the_newest_checkpoint_of_a_stage_trains_on_through_the_command(runs, zoo, tmp_path):
    """The stage is not part of a run's identity."""
    training = smoke().training
    assert learn.claim(tmp_path, zoo.record, training) == training
    (tmp_path / "checkpoints" / MIDDLE).mkdir(parents=True)
    (tmp_path / "checkpoints" / MIDDLE / "training.json").touch()
    learn.claim(tmp_path, zoo.record, training.model_copy(update={"zero_stage": 3}))
