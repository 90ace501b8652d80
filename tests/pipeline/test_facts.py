"""Facts: from a source to the catalog, and from there to other archives."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from pipeline.archive.summary import summarize
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import pending_shards, seal_zoo, unseal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import (
    ClassifierConfig,
    ClassifierZooConfig,
    FitConfig,
    HyperparametersConfig,
    SignalsConfig,
    SirenConfig,
    ZooConfig,
)
from pipeline.errors import ArchiveError, InputError
from pipeline.signals import Signals, load_signals
from pipeline.training.loader import Feed, LearnedFrom
from pipeline.zoos.build import fit_shard, plan_zoo

pytestmark = pytest.mark.fast

IMAGES = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6).tolist()


def load_tables(folder, *tables: dict, **settings):
    """The signals of Parquet files with these columns beside images."""
    for number, columns in enumerate(tables):
        pq.write_table(pa.table({"image": IMAGES} | columns), folder / f"{number}.parquet")
    return load_signals(SignalsConfig(source="parquet", path=folder, **settings))


def test_columns_of_parquet_files_are_facts_where_they_are_named(tmp_path):
    columns = {"age": [1, 2, 3, 4], "mass": [0.5, None, 2, 3], "label": [5, 5, 6, 6]}
    others = {"age": pa.array([5, 6, 7, 8], pa.uint8()), "mass": [1, 2, 3, 4], "label": [5] * 4}
    signals = load_tables(tmp_path, columns, others, fact_columns=("age", "mass", "label"))
    assert [(name, str(column.dtype)) for name, column in signals.facts.items()] == [
        ("age", "int64"),
        ("mass", "float64"),
        ("label", "int64"),
    ]
    assert signals.facts["age"].tolist() == [*range(1, 9)]
    np.testing.assert_array_equal(signals.facts["mass"], [0.5, np.nan, 2, 3, 1, 2, 3, 4])
    assert signals.class_names == ("5", "6")
    plain = load_tables(tmp_path, columns, others)
    assert plain.facts == {}
    assert plain.digest() != signals.digest()


def test_a_file_that_cannot_be_read_has_no_facts(tmp_path):
    (tmp_path / "1.parquet").write_bytes(b"cut")
    (tmp_path / "2.parquet").write_bytes(b"cut")
    signals = load_tables(
        tmp_path, {"age": [1, 2, 3, 4]}, fact_columns=("age",), max_unreadable=0.7
    )
    np.testing.assert_array_equal(signals.facts["age"], [1, 2, 3, 4, np.nan, np.nan])


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (("age",), {}, r"must have the column 'age' that signals.fact_columns names, found \['im"),
        (("an age",), {}, "signals.fact_columns must name facts as variables are named"),
        (
            ("age",),
            {"age": [*"abcd"]},
            r"the column 'age' \(signals.fact_columns\) must be numbers",
        ),
        (("age",), {"age": [1, np.inf, 2, 3]}, "must be finite or null, found inf at 1"),
    ],
)
def test_columns_that_are_no_facts_are_named(tmp_path, names, columns, message):
    with pytest.raises(InputError, match=message):
        load_tables(tmp_path, columns, fact_columns=names)


def test_other_sources_have_no_columns_of_facts():
    with pytest.raises(InputError, match="which source 'digits' does not have"):
        load_signals(SignalsConfig(fact_columns=("age",)))


COUNT = 40
FACTS = {
    "number": np.arange(COUNT),
    "share": np.where(np.arange(COUNT) % 4, np.linspace(0, 1, COUNT), np.nan),
}
INRS = ZooConfig(
    signals=SignalsConfig(source="notebook:ramps"),
    views=2,
    inr=SirenConfig(hidden=(3,)),
    fit=FitConfig(max_steps=2),
    shard_size=16,
)


def ramps(facts: dict, grid: tuple[int, ...] = (6,)) -> Signals:
    values = np.linspace(0, 1, COUNT * int(np.prod(grid))).reshape(COUNT, *grid, 1)
    return Signals("ramps", values, np.arange(COUNT) % 2, ("even", "odd"), facts=facts)


def build(folder, config=INRS, facts=FACTS, grid=(6,)) -> Zoo:
    plan = plan_zoo(config, folder, ramps(facts, grid))
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    return seal_zoo(folder)


def expected(zoo: Zoo) -> dict[str, list]:
    """The expected facts of each member, by its source_index."""
    sources = zoo.catalog["source_index"].to_pylist()
    share = [None if np.isnan(value) else value for value in FACTS["share"]]
    return {"number": sources, "share": [share[source] for source in sources]}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return build(tmp_path_factory.mktemp("facts") / "zoo")


def test_facts_are_columns_of_the_catalog(zoo):
    assert verify_zoo(zoo) == []
    assert zoo.record.facts == {"number": "int64", "share": "double"}
    assert zoo.catalog.select([*FACTS]).to_pydict() == expected(zoo)
    assert zoo.catalog["share"].null_count == 20
    assert summarize(zoo)["facts"]["number"]["100%"] == 39
    doc = zoo.record.schema.field("number").metadata[b"doc"]
    assert doc == b"fact of the signal; null where it is not known"


def test_facts_of_waves_are_columns_of_their_zoo(tmp_path):
    signals = SignalsConfig(source="waves", size=8, limit=40)
    config = INRS.model_copy(update={"signals": signals})
    plan = plan_zoo(config, tmp_path / "zoo")
    for shard in plan.shards:
        fit_shard(config, tmp_path / "zoo", plan.signals, shard)
    zoo = seal_zoo(tmp_path / "zoo")
    for name, column in zoo.signals().facts.items():
        assert zoo.catalog[name].to_pylist() == column[zoo.catalog["source_index"]].tolist()
    assert {"amplitude", "frequency"} <= {*zoo.catalog.column_names}


def test_a_zoo_of_other_facts_is_another_zoo(zoo, tmp_path):
    other = FACTS | {"number": FACTS["number"] + 1}
    with pytest.raises(InputError, match=r"differs from this one .* in signals digest"):
        plan_zoo(INRS, zoo.folder, ramps(other))


def test_a_fact_may_be_called_position_or_index(tmp_path):
    zoo = build(tmp_path / "zoo", facts={name: FACTS["number"] for name in ("position", "index")})
    found = zoo.where(pc.field("index") < 5)
    assert zoo.catalog["index"].to_numpy()[found].max() == 4
    feed = Feed(zoo, "train", ("position",), members=7)
    truth = zoo.catalog["position"].to_numpy()[feed.positions].tolist()
    assert LearnedFrom(feed).members("train")["position"].to_pylist() == truth


@pytest.mark.parametrize("name", ["psnr", "label", "run", "source", "epoch"])
def test_a_fact_is_not_called_as_a_column_that_means_something_else(tmp_path, name):
    with pytest.raises(InputError, match=rf"facts of ramps .* '{name}' already has"):
        plan_zoo(INRS, tmp_path / "zoo", ramps({name: np.arange(COUNT)}))


def test_a_zoo_json_with_facts_that_cannot_be_is_damaged(zoo, tmp_path):
    content = (zoo.folder / "zoo.json").read_text()
    (tmp_path / "zoo.json").write_text(content.replace('"number": "int64"', '"psnr": "int64"'))
    with pytest.raises(ArchiveError, match=r"is damaged .*'psnr' already has a meaning"):
        Zoo.open(tmp_path)


def test_classifiers_have_no_facts_as_they_learn_many_images(tmp_path):
    config = ClassifierZooConfig(
        signals=INRS.signals,
        num_runs=10,
        network=ClassifierConfig(hidden=(3,)),
        hyperparameters=HyperparametersConfig(epochs=(1,)),
    )
    zoo = build(tmp_path / "zoo", config, FACTS, (4, 4))
    assert verify_zoo(zoo) == []
    assert not {*FACTS} & {*zoo.catalog.column_names}


@pytest.mark.parametrize("format", ["unterthiner", "modelzoos", "fit-a-nef", "webdataset"])
def test_facts_travel_with_the_layouts_that_have_columns(zoo, tmp_path, format):
    theirs, ours = str(tmp_path / "theirs"), str(tmp_path / "ours")
    assert main(["zoo", "export", str(zoo.folder), "--format", format, "--out", theirs]) == 0
    assert main(["zoo", "import", theirs, "--format", format, "--out", ours]) == 0
    back = Zoo.open(ours)
    table = back.catalog.select(["source_index", *FACTS])
    assert table.drop_columns(["source_index"]).to_pydict() == expected(back)
    assert len(back) == len(zoo)


def test_a_merged_zoo_has_null_where_one_has_no_facts(zoo, tmp_path):
    build(tmp_path / "plain", facts={})
    both = str(tmp_path / "both")
    assert main(["zoo", "merge", str(zoo.folder), str(tmp_path / "plain"), "--out", both]) == 0
    merged = Zoo.open(both)
    assert verify_zoo(merged) == []
    assert merged.catalog["number"].null_count == len(zoo)
    assert sorted(merged.catalog["number"].drop_null().to_pylist()) == sorted([*range(COUNT)] * 2)


def test_a_zoo_that_version_3_began_goes_on_with_facts(tmp_path):
    """Facts of generated signals are not part of the digest, so the fingerprint is the same."""
    signals = SignalsConfig(source="waves", size=8, limit=40)
    config, folder = INRS.model_copy(update={"signals": signals}), tmp_path / "zoo"
    plan = plan_zoo(config, folder)
    *before, last = plan.shards
    for shard in before:
        fit_shard(config, folder, plan.signals, shard)
        file = folder / "catalog" / f"{shard.name}.parquet"
        table = pq.read_table(file).drop_columns(["amplitude", "frequency"])
        pq.write_table(table, file, write_page_checksum=True)
    content = json.loads((folder / "zoo.json").read_text())
    del content["facts"]
    (folder / "zoo.json").write_text(json.dumps(content | {"schema_version": 3}))
    old = Zoo.open(folder)
    assert "amplitude" not in old.catalog.column_names
    assert len(old) == sum(len(shard.source_index) for shard in before)
    plan = plan_zoo(config, folder)
    assert [*pending_shards(folder)] == [last.name]
    unseal_zoo(folder, plan.record)
    fit_shard(config, folder, plan.signals, last)
    zoo = seal_zoo(folder)
    assert verify_zoo(zoo) == []
    assert zoo.record.fingerprint == old.record.fingerprint
    assert zoo.catalog["amplitude"].null_count == len(old)
    assert zoo.parts[last.name].table["amplitude"].null_count == 0
