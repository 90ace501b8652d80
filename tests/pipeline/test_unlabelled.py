"""Signals without classes are fitted, drawn, merged and exchanged; only classification fails."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.archive.merge import merge_shard, plan_merge
from pipeline.archive.summary import summarize
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import (
    ClassifierZooConfig,
    FitConfig,
    ImportConfig,
    SignalsConfig,
    SirenConfig,
    ZooConfig,
)
from pipeline.errors import InputError
from pipeline.exchange.exporting import export_zoo
from pipeline.exchange.importing import import_shard, plan_import
from pipeline.figures.reconstructions import draw_reconstructions
from pipeline.progress import no_progress
from pipeline.signals import NO_LABEL, Signals
from pipeline.tasks.classification import Classification
from pipeline.training.loader import Feed
from pipeline.zoos.build import fit_shard, plan_zoo
from pipeline.zoos.splits import split_sources

pytestmark = pytest.mark.fast

VALUES = np.random.default_rng(0).random((40, 5, 5, 1)).astype(np.float32)
LABELS = np.where(np.arange(40) < 2, NO_LABEL, np.arange(40) % 2)
UNLABELLED = Signals("plain", VALUES, np.full(40, NO_LABEL), ())
LABELLED = Signals("named", VALUES, LABELS, ("x", "y"))


def build(folder, signals: Signals, seed: int = 0) -> Zoo:
    config = ZooConfig(
        seed=seed,
        signals=SignalsConfig(source="made:signals"),
        inr=SirenConfig(hidden=(4,)),
        fit=FitConfig(max_steps=3),
    )
    plan = plan_zoo(config, folder, signals)
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    return seal_zoo(folder)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory) -> Zoo:
    return build(tmp_path_factory.mktemp("unlabelled") / "zoo", UNLABELLED)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Zoo:
    """A zoo with two signals of unknown class."""
    return build(tmp_path_factory.mktemp("labelled") / "zoo", LABELLED)


def test_signals_without_classes_become_a_sound_zoo(unlabelled, tmp_path):
    assert verify_zoo(unlabelled) == []
    assert unlabelled.record.classes is None
    assert unlabelled.catalog["label"].null_count == len(unlabelled) == 40
    summary = summarize(unlabelled)
    assert (summary["classes"], summary["failed"]) == ({}, 0)
    assert summary["splits"] == {"train": 28, "validation": 4, "test": 8}
    draw_reconstructions(unlabelled, tmp_path / "zoo.png", UNLABELLED)
    assert (tmp_path / "zoo.png").stat().st_size > 1000


def test_only_classification_needs_classes(unlabelled, labelled):
    with pytest.raises(
        InputError, match="has no classes to learn: its members must have labels of"
    ):
        Classification().check(unlabelled)
    Classification().check(labelled)
    config = ClassifierZooConfig(signals=SignalsConfig(source="made:signals"))
    with pytest.raises(InputError, match="two classes or more, signals plain have 0"):
        plan_zoo(config, unlabelled.folder.with_name("classifiers"), UNLABELLED)


def test_a_signal_without_a_class_among_others_fails_alone(labelled):
    assert verify_zoo(labelled) == []
    rows = labelled.catalog.select(["source_index", "label", "status", "failure"]).to_pylist()
    assert [row for row in rows if row["source_index"] < 2 or row["label"] is None] == [
        {"source_index": i, "label": None, "status": "failed", "failure": "has no label"}
        for i in sorted((0, 1), key=[row["source_index"] for row in rows].index)
    ]
    labels = np.concatenate(
        [batch.columns["label"] for batch in Feed(labelled, "train", ("label",)).whole()]
    )
    members = labelled.members("train")
    assert labels.tolist() == members["label"].to_pylist()


@pytest.mark.parametrize("format", ["dwsnets", "fit-a-nef", "webdataset"])
def test_a_zoo_without_classes_goes_out_and_comes_in(unlabelled, tmp_path, format):
    assert export_zoo(unlabelled, format, tmp_path / "out", no_progress) == 40
    config = ImportConfig(format=format, path=tmp_path / "out", omega=30.0)
    plan = plan_import(config, tmp_path / "in")
    for name in plan.intake.shards:
        import_shard(plan, tmp_path / "in", name)
    zoo = seal_zoo(tmp_path / "in")
    assert verify_zoo(zoo) == []
    assert (zoo.record.signals.class_names, summarize(zoo)["classes"]) == ((), {})
    assert summarize(zoo)["failed"] == 0
    assert summarize(zoo)["splits"] == summarize(unlabelled)["splits"]


def test_zoos_without_classes_are_merged(unlabelled, labelled, tmp_path):
    other = build(tmp_path / "other", replace(UNLABELLED, values=VALUES / 2))
    plan = plan_merge([unlabelled.folder, other.folder], tmp_path / "merged")
    for name in plan.shards:
        merge_shard(plan, tmp_path / "merged", name)
    merged = seal_zoo(tmp_path / "merged")
    assert verify_zoo(merged) == []
    assert merged.catalog["label"].null_count == len(merged) == 80
    with pytest.raises(InputError, match="must both have names of classes, found them in one"):
        plan_merge([unlabelled.folder, labelled.folder], tmp_path / "mixed")


def test_splits_of_the_source_are_kept_and_the_others_drawn():
    config = ZooConfig(signals=SignalsConfig(test_fraction=0.25, validation_fraction=0.25))
    validation, held_out = np.arange(40) < 6, np.arange(40) >= 33
    for labels, names in ((np.arange(40) % 2, ("x", "y")), (np.full(40, NO_LABEL), ())):
        signals = replace(UNLABELLED, labels=labels, class_names=names, validation=validation)
        splits = split_sources(config, signals)
        assert splits["validation"].tolist() == [*range(6)]
        assert len(splits["test"]) == 10
        assert not np.isin(splits["test"], splits["validation"]).any()
        splits = split_sources(config, replace(signals, held_out=held_out))
        assert splits["validation"].tolist() == [*range(6)]
        assert splits["test"].tolist() == [*range(33, 40)]
        assert sorted(np.concatenate([*splits.values()]).tolist()) == [*range(40)]
