"""Unreadable signals fail one by one, with name and reason in the catalog and in messages."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.recipes import mlps, smoke
from flows.stages.convert import merge_zoos
from pipeline.archive.summary import summarize
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import AnyZooConfig, FitConfig, SignalsConfig, SirenConfig
from pipeline.errors import ArchiveError, InputError
from pipeline.signals import Signals, load_signals
from pipeline.signals.decoding import decode_image
from pipeline.signals.function import check_signals
from pipeline.training.checkpoint import load_best
from pipeline.training.evaluate import write_predictions
from pipeline.zoos.build import fit_shard, plan_zoo
from tests.pipeline.test_decoding import GREY, saved, text_chunk

BAD = {
    "a/text.png": (text_chunk(), "cannot be decoded (Decompressed data too large"),
    "b/empty.jpg": (b"", "cannot be decoded (empty)"),
    "b/other.png": (b"not a picture", "cannot be decoded (not an image in one of the formats PNG"),
}


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes of twelve images, and three files that are not images."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            image = rng.integers(0, 256, (8, 8), np.uint8)
            (folder / name / f"{number:02d}.png").write_bytes(saved(image))
    for name, (content, _) in BAD.items():
        (folder / name).write_bytes(content)
    return folder


def build(config: AnyZooConfig, folder: Path) -> Zoo:
    plan = plan_zoo(config, folder)
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    return seal_zoo(folder)


def signals_of(photos: Path, **changes) -> SignalsConfig:
    return SignalsConfig(source="folder", path=photos, **changes)


def test_a_zoo_has_a_row_for_each_file_with_its_name_and_what_is_wrong(photos, tmp_path, caplog):
    quick = {"inr": SirenConfig(hidden=(4,)), "fit": FitConfig(max_steps=2), "views": 2}
    config = smoke().zoo.model_copy(update=quick | {"signals": signals_of(photos)})
    zoo = build(config, tmp_path / "zoo")
    assert verify_zoo(zoo) == []
    rows = zoo.catalog.to_pylist()
    files = {f"{name}/{number:02d}.png" for name in "ab" for number in range(12)} | BAD.keys()
    assert sorted(row["source_name"] for row in rows) == sorted([*files, *files])
    for place, row in enumerate(rows):
        name, is_bad = row["source_name"], row["source_name"] in BAD
        assert row["label"] == "ab".index(name[0])
        assert row["status"] == ("failed" if is_bad else "ok")
        assert (row["stop_reason"] == "unreadable") == is_bad
        assert (row["failure"] or "").startswith(BAD[name][1]) if is_bad else not row["failure"]
        if is_bad:
            with pytest.raises(ArchiveError, match=f"has no weights: its signal {name} cannot be"):
                zoo[place]
    assert zoo.record.signals.unreadable.keys() == BAD.keys()
    assert summarize(zoo)["unreadable"] == 3
    assert "3 of 27 signals of photos cannot be read and are left out" in caplog.text
    assert all(f"{name} {reason}" in caplog.text for name, (_, reason) in BAD.items())


def test_predictions_say_which_file_each_is_of(photos, smoke_run, tmp_path):
    quick = {"signals": signals_of(photos), "fit": FitConfig(max_steps=2)}
    zoo = build(smoke().zoo.model_copy(update=quick), tmp_path / "zoo")
    write_predictions(load_best(smoke_run.folder), zoo, tmp_path / "predictions.parquet")
    table = pq.read_table(tmp_path / "predictions.parquet").to_pandas()
    expected = zoo.catalog.to_pandas().set_index("key")["source_name"]
    assert (table.set_index("key")["source_name"] == expected[table["key"]]).all()
    assert set(table["source_name"]) == set(expected) - BAD.keys()
    assert (table["class"] == table["source_name"].str[0]).all()


def test_zoos_of_the_same_signals_are_merged_whatever_their_files_are_called(photos, tmp_path):
    quick = {"inr": SirenConfig(hidden=(4,)), "fit": FitConfig(max_steps=2)}
    config = smoke().zoo.model_copy(update=quick | {"signals": signals_of(photos)})
    build(config, tmp_path / "one")
    for name in "ab":
        for file in (photos / name).iterdir():
            file.rename(file.with_stem(f"{file.stem}-renamed"))
    build(config.model_copy(update={"fit": FitConfig(max_steps=3)}), tmp_path / "two")
    merge_zoos([tmp_path / "one", tmp_path / "two"], tmp_path / "merged")
    merged = Zoo.open(tmp_path / "merged").catalog.to_pandas()
    names = merged.groupby("source_index")["source_name"].apply(set)
    assert all({name.replace("-renamed", "") for name in pair} < pair for pair in names)
    assert (merged["failure"].notna() == (merged["status"] == "failed")).all()


def test_classifiers_learn_from_the_others(photos, tmp_path):
    changes = {"num_runs": 10, "hyperparameters": mlps().zoo.hyperparameters}
    config = mlps().zoo.model_copy(
        update=changes | {"signals": signals_of(photos, validation_fraction=0.2)}
    )
    zoo = build(config, tmp_path / "zoo")
    assert set(zoo.catalog["status"].to_pylist()) == {"ok"}
    assert np.isfinite(zoo.catalog["train_loss"].to_numpy()).all()
    assert np.isfinite(zoo.record.decode.image.mean).all()
    assert zoo.record.signals.unreadable.keys() == BAD.keys()


def test_too_many_stop_the_run_in_a_sentence(photos):
    assert len(load_signals(signals_of(photos, max_unreadable=3 / 27)).failures) == 3
    with pytest.raises(InputError, match=r"at most 10% of the signals of photos .*found 3 of 27 "):
        load_signals(signals_of(photos, max_unreadable=0.1))
    for name in "ab":
        for number in range(2, 12):
            (photos / name / f"{number:02d}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"at most 50% .* found 23 of 27 .* and 18 more"):
        load_signals(signals_of(photos))


def test_what_is_put_up_with_is_no_part_of_what_a_zoo_is(photos):
    one, two = (
        smoke().zoo.model_copy(update={"signals": signals_of(photos, max_unreadable=share)})
        for share in (0.1, 0.9)
    )
    assert one.fingerprint() == two.fingerprint()


def test_a_limit_keeps_names_and_failures_with_their_signals(photos):
    signals = load_signals(signals_of(photos))
    some = signals.take(14)
    assert some.names == tuple(signals.names[i] for i in np.arange(14) * 27 // 14)
    for place, name in enumerate(some.names):
        assert np.isnan(some.values[place]).any() == (name in BAD) == (place in some.failures)
    assert 0 < len(some.failures) < 3


def test_names_of_any_bytes_are_kept_and_shown_on_one_line(photos, caplog):
    os.rename(photos / "a" / "00.png", os.fsencode(photos / "a") + b"/caf\xe9.png")
    os.rename(photos / "a" / "01.png", photos / "a" / "01\x1b\n.png")
    (photos / "a" / "02\n.png").write_bytes(b"")
    names = load_signals(signals_of(photos)).names
    assert {"a/caf\\xe9.png", "a/01\x1b\n.png", "a/02\n.png"} < set(names)
    assert r"a/02\n.png cannot be decoded (empty)" in caplog.text


def table_of(folder: Path, name: str, images: list[bytes | None]):
    image = [None if data is None else {"bytes": data, "path": None} for data in images]
    labels = [row % 2 for row in range(len(images))]
    pq.write_table(pa.table({"image": image, "label": labels}), folder / name)


def test_rows_and_files_of_a_table_fail_one_by_one(tmp_path):
    table_of(tmp_path, "train-0.parquet", [saved(GREY)] * 6 + [None, b"", text_chunk()])
    table_of(tmp_path, "train-1.parquet", [saved(GREY)] * 6)
    cut = (tmp_path / "train-1.parquet").read_bytes()[:300]
    (tmp_path / "train-1.parquet").write_bytes(cut)
    pq.write_table(pa.table({"image": ["a", "b"], "label": [0, 1]}), tmp_path / "train-2.parquet")
    table_of(tmp_path, "train-3.parquet", [saved(GREY)] * 6)
    os.mkfifo(tmp_path / "train-4.parquet")
    config = SignalsConfig(source="parquet", path=tmp_path)
    with pytest.raises(
        InputError, match=r"at most 50% of the 5 files .* may be unreadable, found 3"
    ):
        load_signals(config)
    os.unlink(tmp_path / "train-4.parquet")
    signals = load_signals(config)
    failed = {signals.called(i): reason for i, reason in signals.failures.items()}
    assert {name: reason.split(" (")[0] for name, reason in failed.items()} == {
        "train-0.parquet:6": "has no image",
        "train-0.parquet:7": "cannot be decoded",
        "train-0.parquet:8": "cannot be decoded",
        "train-1.parquet": "cannot be read as Parquet",
        "train-2.parquet": "must have one column of images",
    }
    assert signals.names[9:] == (
        *(f"train-3.parquet:{row}" for row in range(6)),
        "train-1.parquet",
        "train-2.parquet",
    )
    assert np.isnan(signals.values).any((1, 2, 3)).sum() == len(failed)


@pytest.mark.parametrize("size", [None, 1])
def test_signals_of_one_point_are_refused_before_anything_is_fitted(tmp_path, size):
    (tmp_path / "x.png").write_bytes(saved(GREY[:1] if size is None else GREY))
    with pytest.raises(InputError, match=r"must have two points or more along each side, found"):
        load_signals(SignalsConfig(source="folder", path=tmp_path, size=size))


def test_a_folder_that_may_not_be_entered_costs_its_files_alone(photos, monkeypatch):
    folder, user = photos / "b", os.geteuid()
    folder.chmod(0o444)
    photos.parent.chmod(0o755)
    monkeypatch.chdir(photos.parent)
    if user == 0:
        os.seteuid(65534)
    try:
        signals = load_signals(signals_of(Path("photos"), max_unreadable=0.6))
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
    failed = {signals.called(i): reason for i, reason in signals.failures.items()}
    assert sum(name.startswith("b/") for name in failed) == 14
    assert failed["b/00.png"] == "cannot be decoded (Permission denied)"


def pipe(file: Path):
    os.mkfifo(file)


def nowhere(file: Path):
    file.symlink_to("nowhere")


def circle(file: Path):
    file.symlink_to(file)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (pipe, "not a file"),
        (Path.mkdir, "not a file"),
        (nowhere, "No such file or directory"),
        (circle, "Too many levels of symbolic links"),
        (lambda file: file.symlink_to("/dev/zero"), "not a file"),
    ],
)
def test_what_is_no_file_is_not_waited_for(tmp_path, make, reason):
    make(tmp_path / "x.png")
    assert decode_image(tmp_path / "x.png", 8).pixels == f"cannot be decoded ({reason})"


def test_a_file_without_permission_says_so(tmp_path):
    file = tmp_path / "x.png"
    file.write_bytes(saved(GREY))
    file.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        assert decode_image(file, None).pixels == "cannot be decoded (Permission denied)"
    finally:
        os.seteuid(user)


def test_signals_of_a_function_fail_where_it_says_so():
    signals = Signals("made", np.zeros((3, 4, 1)), np.array([0, 1, 0]), ("a", "b"))
    checked = check_signals("made", replace(signals, failures={1: "camera off"}))
    assert checked.failures == {1: "camera off"}
    assert np.isnan(checked.values).all((1, 2)).tolist() == [False, True, False]
    with pytest.raises(InputError, match=r"failures by position, 0 to 2, found 'a\.png'"):
        check_signals("made", replace(signals, failures={"a.png": "camera off"}))


def test_signals_of_a_function_fail_where_they_are_not_finite():
    values = np.random.default_rng(0).random((4, 8, 1))
    values[2, 3] = np.nan
    labels, names = np.zeros(4, np.int64), ("one",)
    signals = check_signals("mine:make", Signals("mine", values, labels, names))
    assert signals.failures == {2: "has values that are not finite"}
    assert signals.called(2) == "2"
    named = Signals("mine", values, labels, names, names=("w", "x", "y", "z"))
    assert check_signals("mine:make", named).called(2) == "y"
    with pytest.raises(InputError, match="a name for each of 4 signals or none, found 1"):
        check_signals("mine:make", Signals("mine", values, labels, names, names=("w",)))
