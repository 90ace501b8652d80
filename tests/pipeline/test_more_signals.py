"""Zoos that grow by the new signals of their source, and zoos built again from zoo.json."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows import verbs
from flows.recipes import smoke
from pipeline.archive.catalog import shard_path
from pipeline.archive.files import write_json
from pipeline.archive.growing import PLAN
from pipeline.archive.growth import stretches, zoo_order
from pipeline.archive.record import record_in
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import pending_shards, seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import FitConfig, SignalsConfig
from pipeline.errors import InputError
from pipeline.signals import Signals
from pipeline.zoos.build import fit_shard, plan_zoo
from pipeline.zoos.growth import plan_again, plan_growth
from pipeline.zoos.splits import split_sources
from tests.conftest import contents
from tests.pipeline.test_growth import MADE_ANEW, fit, grow

pytestmark = pytest.mark.fast

CLASSES = ("cat", "dog", "emu")
FIRST, SECOND, THIRD = range(1, 36, 3), range(2, 20, 3), (0, 99)
"""Numbers in the names of images, which order them: later images are between earlier ones."""


def draw(photos: Path, numbers, classes=CLASSES):
    for name in classes:
        (photos / name).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            rng = np.random.default_rng([number, CLASSES.index(name)])
            pixels = rng.integers(0, 256, (4, 4), np.uint8)
            Image.fromarray(pixels).save(photos / name / f"{number:02d}.png")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with `photos`, `zoo` of the first photos, and `grown`, with all. Read only."""
    folder = tmp_path_factory.mktemp("photos")
    draw(folder / "photos", FIRST)
    signals = SignalsConfig(source="folder", path=folder / "photos")
    config = smoke().zoo.model_copy(
        update={"signals": signals, "views": 1, "fit": FitConfig(max_steps=2), "shard_size": 20}
    )
    fit(plan_zoo(config, folder / "zoo"), folder / "zoo")
    seal_zoo(folder / "zoo")
    shutil.copytree(folder / "zoo", folder / "grown")
    draw(folder / "photos", SECOND)
    grow(folder / "grown", "+1")
    draw(folder / "photos", THIRD)
    grow(folder / "grown")
    return folder


@pytest.fixture
def copy(built, tmp_path) -> Path:
    """The first zoo, with its own copy of the photos."""
    draw(tmp_path / "photos", FIRST)
    shutil.copytree(built / "zoo", tmp_path / "zoo")
    content = json.loads((tmp_path / "zoo" / "zoo.json").read_text())
    content["config"]["signals"]["path"] = str(tmp_path / "photos")
    write_json(tmp_path / "zoo" / "zoo.json", content)
    (tmp_path / "zoo" / "statistics.json").unlink()
    seal_zoo(tmp_path / "zoo")
    return tmp_path / "zoo"


def test_what_the_source_has_more_is_fitted(built):
    old, new = Zoo.open(built / "zoo"), Zoo.open(built / "grown")
    assert verify_zoo(new) == []
    assert new.catalog.slice(0, len(old)).equals(old.catalog)
    table = new.catalog.to_pandas()
    assert new.record.signals.num_signals == table["source_index"].nunique() == 60
    assert (table.groupby("source_index")["view"].apply(sorted) == [[0, 1]] * 60).all()
    assert [growth.num_signals for growth in new.record.grown] == [36, 54]
    assert [growth.views for growth in new.record.grown] == [1, 2]
    last = {f"{name}/{number:02d}.png" for name in CLASSES for number in THIRD}
    assert {*new.source_names()[54:]} == last


def test_each_member_is_of_the_signal_that_its_row_names(built):
    zoo = Zoo.open(built / "grown")
    signals = zoo.signals()
    assert list(signals.names) == zoo.source_names()
    names = zoo.record.signals.class_names
    for row in zoo.catalog.to_pylist():
        assert row["source_name"].startswith(f"{names[row['label']]}/")
        assert signals.labels[row["source_index"]] == row["label"]


def test_signals_stay_on_their_side_and_each_split_gets_its_share_of_all(built):
    sides = [
        Zoo.open(built / name).catalog.to_pandas().groupby("source_index")["split"].first()
        for name in ("zoo", "grown")
    ]
    assert sides[1].iloc[:36].equals(sides[0])
    counts = sides[1].value_counts().to_dict()
    assert counts == {"train": 42, "test": 12, "validation": 6}  # 20 of each class: 2 and 4
    assert sides[1].iloc[36:].nunique() == 3


def test_signal_by_signal_the_shares_are_what_they_are_at_once():
    """One signal is added at a time; alone, each would go to the train split."""
    labels = np.random.default_rng(0).integers(0, 2, 90)
    signals = Signals("one by one", np.zeros((90, 2, 2, 1), np.float32), labels, ("a", "b"))
    config = smoke().zoo
    before = split_sources(config, signals.at(np.arange(30)))
    for count in range(31, 91):
        after = split_sources(config, signals.at(np.arange(count)), range(30, count))
        assert all(set(before[split]) <= set(after[split]) for split in after)
        assert sum(map(len, after.values())) == count
        before = after
    at_once = split_sources(config, signals)
    assert {split: len(part) for split, part in before.items()} == {
        split: len(part) for split, part in at_once.items()
    }
    assert any(set(before[split]) != set(at_once[split]) for split in before)


def test_the_source_says_which_split_new_signals_are_in():
    held_out = np.arange(40) % 4 == 3
    signals = Signals(
        "own", np.zeros((40, 2, 2, 1), np.float32), np.zeros(40, np.int64), ("a",), held_out
    )
    splits = split_sources(smoke().zoo, signals, [20, 30])
    assert np.array_equal(splits["test"], np.flatnonzero(held_out))
    assert len(splits["validation"]) == 4


def test_the_order_of_a_zoo_follows_from_where_new_signals_lay():
    rng, places, size, order = np.random.default_rng(0), [], 5, np.arange(5)
    for came in (3, 0, 4):
        is_new = np.zeros(size + came, bool)
        is_new[rng.permutation(size + came)[:came]] = True
        places.append(stretches(is_new))
        order = np.concatenate([np.flatnonzero(~is_new)[order], np.flatnonzero(is_new)])
        size += came
        assert np.array_equal(zoo_order(size, places), order)
    assert stretches(np.array([True, True, False, True])) == ((0, 2), (3, 4))


def test_a_zoo_that_grew_is_built_again_from_its_zoo_json_with_equal_bytes(built, tmp_path):
    (tmp_path / "zoo.json").write_bytes((built / "grown" / "zoo.json").read_bytes())
    record = record_in(tmp_path / "zoo.json")
    config = verbs.recipe_of(tmp_path / "zoo.json", record).zoo
    plan = plan_again(tmp_path / "zoo.json", record, config, tmp_path / "again")
    fit(plan, tmp_path / "again")
    seal_zoo(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(built / "grown")
    changed = config.model_copy(update={"seed": 1})
    with pytest.raises(
        InputError, match=r"is rebuilt as it was, got settings .* \(seed: was 0, is 1"
    ):
        plan_again(tmp_path / "zoo.json", record, changed, tmp_path / "other")


def test_what_came_during_an_interruption_waits_for_the_next_growth(copy):
    photos = copy.parent / "photos"
    draw(photos, SECOND)
    plan = plan_growth(copy)
    fit_shard(plan.record.config, copy, plan.signals, plan.shards[-1])
    before = contents(copy)
    draw(photos, THIRD)
    again = plan_growth(copy)
    assert again.record == plan.record
    assert len(pending_shards(copy)) == len(plan.shards) - len(Zoo.open(copy).shards) - 1
    fit(again, copy)
    zoo = seal_zoo(copy)
    assert {name for name, data in before.items() if contents(copy).get(name) != data} == {
        *MADE_ANEW,
        PLAN,
    }
    assert len(zoo.signals()) == zoo.record.signals.num_signals == 54
    assert verify_zoo(zoo) == []
    assert len(grow(copy)) == 60


def test_a_damaged_shard_is_made_again_though_the_source_has_more_by_now(copy):
    draw(copy.parent / "photos", SECOND)
    before = contents(copy)
    shard_path(copy, "train-000001").unlink()
    record = record_in(copy / "zoo.json")
    plan = plan_again(copy / "zoo.json", record, record.config, copy)
    assert [*pending_shards(copy)] == ["train-000001"]
    fit(plan, copy)
    assert contents(copy) == before


REFUSED = {
    "gone": (
        lambda photos: (photos / "cat" / "04.png").unlink(),
        r"must still have cat/04\.png, found none: put back what was there",
    ),
    "changed": (
        lambda photos: shutil.copy(photos / "cat" / "01.png", photos / "cat" / "04.png"),
        r"signals of zoo .* have changed since it was built \(values, labels, splits or facts",
    ),
    "a new class": (
        lambda photos: shutil.copytree(photos / "cat", photos / "bee"),
        r"have changed since it was built \(class_names: was \[\"cat\", \"dog\", \"emu\"\], is",
    ),
    "two gone": (
        lambda photos: [(photos / name / "01.png").unlink() for name in ("cat", "emu")],
        r"must still have cat/01\.png and 1 others, found none: put back",
    ),
    "colours": (
        lambda photos: Image.new("RGB", (4, 4), "red").save(photos / "cat" / "50.png"),
        r"have changed since it was built \(num_channels: was 1, is 3\)",
    ),
    "no source": (shutil.rmtree, r"must be at .*photos, found nothing there"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_gone_or_changed_is_refused(copy, name):
    change, message = REFUSED[name]
    before = contents(copy)
    change(copy.parent / "photos")
    with pytest.raises(InputError, match=message):
        plan_growth(copy)
    assert contents(copy) == before


def test_a_function_that_makes_more_is_called_where_its_module_is_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    count = tmp_path / "count"
    (tmp_path / "growing_ramps.py").write_text(
        "import numpy as np\n\n\ndef make(size):\n"
        f"    count = int(open({str(count)!r}).read())\n"
        "    return np.random.default_rng(0).random((count, 4, 4, 1)), np.arange(count) % 2\n"
    )
    count.write_text("30")
    signals = SignalsConfig(source="growing_ramps:make")
    config = smoke().zoo.model_copy(update={"signals": signals, "fit": FitConfig(max_steps=1)})
    fit(plan_zoo(config, tmp_path / "zoo"), tmp_path / "zoo")
    seal_zoo(tmp_path / "zoo")
    count.write_text("34")
    with pytest.raises(InputError, match="--trust growing_ramps"):
        plan_growth(tmp_path / "zoo")
    plan = plan_growth(tmp_path / "zoo", trusted=["growing_ramps"])
    assert plan.record.grown[0].places == ((30, 34),)
    count.write_text("20")
    (tmp_path / "zoo" / "growing.json").unlink()
    with pytest.raises(InputError, match="must still have its 30 signals, found 20: put back"):
        plan_growth(tmp_path / "zoo", trusted=["growing_ramps"])
