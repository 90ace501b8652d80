"""INRs with scaled outputs and their own coordinates: archive and exports say how to run them."""

import json

import numpy as np
import pytest
import torch

from flows.cli import main
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import FitConfig, SignalsConfig, SirenConfig, ZooConfig
from pipeline.zoos.build import fit_shard, plan_zoo

pytestmark = pytest.mark.fast

WAVES = ZooConfig(
    signals=SignalsConfig(source="wide-waves", size=40, limit=40),
    inr=SirenConfig(hidden=(16, 16), output_scale=0.05, coordinate_range=(-np.pi, np.pi)),
    fit=FitConfig(max_steps=1500, target_psnr=60.0),
)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    folder = tmp_path_factory.mktemp("waves") / "zoo"
    plan = plan_zoo(WAVES, folder)
    for shard in plan.shards:
        fit_shard(WAVES, folder, plan.signals, shard)
    return seal_zoo(folder)


def test_members_render_their_signals_at_the_coordinates_of_the_wave(zoo):
    assert verify_zoo(zoo) == []
    values, source = zoo.signals().values, zoo.catalog["source_index"].to_numpy()
    x = torch.linspace(-torch.pi, torch.pi, 40).unsqueeze(1)
    torch.testing.assert_close(zoo.record.coordinates(), x)
    for position, psnr in enumerate(zoo.catalog["psnr"].to_pylist()):
        error = np.square(zoo.module(position)(x).detach().numpy() - values[source[position]])
        assert -10 * np.log10(error.mean()) == pytest.approx(psnr, abs=0.05)
    assert np.median(zoo.catalog["psnr"]) > 50
    off_grid = np.array(zoo.catalog["psnr_off_grid"].to_pylist())
    slow = zoo.catalog["frequency"].to_numpy() < 4  # between points of others lines are no sines
    assert off_grid[slow].min() > 20


def test_outputs_are_waves_before_they_are_scaled(zoo):
    position = int(np.argmax(zoo.catalog["psnr"]))
    state = zoo.module(position).state_dict()
    values = torch.linspace(-torch.pi, torch.pi, 40).unsqueeze(0)
    for layer in (0, 1):
        values = state[f"layers.{layer}.weight"] @ values + state[f"layers.{layer}.bias"][:, None]
        values = torch.sin(30 * values)
    outputs = (state["layers.2.weight"] @ values + state["layers.2.bias"]).flatten()
    row = zoo.catalog.slice(position, 1).to_pylist()[0]
    wave = row["amplitude"] * np.sin(row["frequency"] * np.linspace(-np.pi, np.pi, 40))
    np.testing.assert_allclose(outputs, wave, atol=0.2)


def test_an_export_says_how_outputs_are_scaled(zoo, tmp_path):
    theirs, ours = str(tmp_path / "theirs"), str(tmp_path / "ours")
    assert main(["zoo", "export", str(zoo.folder), "--format", "dwsnets", "--out", theirs]) == 0
    assert main(["zoo", "import", theirs, "--format", "dwsnets", "--out", ours]) == 0
    assert Zoo.open(ours).record.decode == zoo.record.decode
    assert zoo.record.decode.output_scale == 0.05


def test_a_zoo_from_before_outputs_were_scaled_is_read(zoo, built_zoo, tmp_path):
    content = json.loads((built_zoo / "zoo.json").read_text())
    assert content["decode"].pop("output_scale") is None
    del content["config"]["inr"]["output_scale"], content["config"]["inr"]["coordinate_range"]
    (tmp_path / "zoo.json").write_text(json.dumps(content | {"schema_version": 4}))
    record, new = Zoo.open(tmp_path).record, Zoo.open(built_zoo).record
    assert (record.config, record.decode) == (new.config, new.decode)


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, -2.0)])
def test_coordinates_rise(bounds):
    with pytest.raises(ValueError, match="the first should be below the last"):
        SirenConfig(coordinate_range=bounds)
