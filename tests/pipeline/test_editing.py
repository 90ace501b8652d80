"""Editing: targets from originals, losses by rendering, equivariance, refusals."""

import numpy as np
import pytest
import torch
from pyarrow.compute import field

from dwsnet.encoders import DWSNetEncoder
from dwsnet.heads import WeightsHead
from dwsnet.symmetry import permute
from dwsnet.testing import assert_equivariant
from dwsnet.weight_space import WeightSpace
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import FitConfig, SignalsConfig, SirenConfig, ZooConfig
from pipeline.decode import DecodeContract, Decoder, ImageContract
from pipeline.errors import InputError
from pipeline.signals.operations import OPERATIONS
from pipeline.tasks.augmentation import Augmentation
from pipeline.tasks.columns import batch_columns
from pipeline.tasks.editing import Editing
from pipeline.tasks.task import Batch, Evaluation
from pipeline.zoos.build import fit_shard, plan_zoo


def batch_of(zoo: Zoo, split: str) -> Batch:
    rows = zoo.where((field("split") == split) & (field("status") == "ok"))
    columns = batch_columns(zoo.catalog.take(rows), Editing.columns)
    return Batch(zoo[rows], columns, torch.from_numpy(rows))


def scores(task: Editing, model, batch: Batch) -> dict[str, float]:
    with torch.no_grad():
        return task.metrics(task.sums(model.eval(), batch))


def model_of(zoo: Zoo, task: Editing, seed=0):
    torch.manual_seed(seed)
    encoder = DWSNetEncoder(zoo.space, width=4, channels=6, num_layers=2)
    encoder.calibrate(zoo.statistics, {})
    model = task.build(encoder, task.prepare(zoo))
    task.attach(model, zoo)
    return model


def keys_of(batch: Batch) -> torch.Tensor:
    return torch.arange(len(batch)) * 7919 - 5


def build(folder, **signals) -> Zoo:
    config = ZooConfig(
        signals=SignalsConfig(limit=60, **signals),
        inr=SirenConfig(hidden=(8, 6)),
        fit=FitConfig(max_steps=60),
    )
    plan = plan_zoo(config, folder)
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    return seal_zoo(folder)


@pytest.mark.parametrize("expansion", [1, 2])
def test_an_untrained_model_scores_as_the_identity_and_says_its_expansion(zoo, expansion):
    task = Editing(expansion=expansion)
    model, batch = model_of(zoo, task), batch_of(zoo, "test")
    metrics = scores(task, model, batch)
    assert metrics["mse"] == pytest.approx(metrics["trivial_mse"], rel=1e-2)
    assert metrics.get("expansion", 1) == expansion
    assert ("expansion" in metrics) == (expansion > 1)


def test_the_trivial_error_is_that_of_renderings_to_the_operation_on_the_originals(zoo):
    task, batch = Editing(), batch_of(zoo, "test")
    metrics = scores(task, model_of(zoo, task), batch)
    dilated = OPERATIONS["dilate"](zoo.signals().values)
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8))
    errors = [
        np.square(zoo.module(row)(grid).detach().numpy() - dilated[source].reshape(-1, 1)).mean()
        for row, source in zip(
            batch.positions.tolist(), batch.columns["source_index"].tolist(), strict=True
        )
    ]
    assert metrics["trivial_mse"] == pytest.approx(np.mean(errors), rel=1e-4)


@pytest.mark.parametrize("operation", ["dilate", "erode"])
def test_the_error_falls_below_the_identity(zoo, operation):
    task = Editing(operation=operation)
    model, batch = model_of(zoo, task), batch_of(zoo, "train")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(30):
        optimizer.zero_grad()
        task.loss(model, batch, keys_of(batch) + step).backward()
        optimizer.step()
    metrics = scores(task, model, batch_of(zoo, "validation"))
    assert metrics["mse"] < 0.9 * metrics["trivial_mse"]


def test_the_loss_is_of_augmented_networks_and_the_same_for_the_same_keys(zoo):
    task, plain = Editing(), Editing(augmentation=Augmentation())
    model, batch = model_of(zoo, task), batch_of(zoo, "test")
    for head in model.heads:  # an edit that depends on signs
        torch.nn.init.normal_(head.weight, std=0.3)
    with torch.no_grad():
        once, again = (task.loss(model, batch, keys_of(batch)) for _ in range(2))
        other, unflipped = (
            task.loss(model, batch, keys_of(batch) + 1),
            plain.loss(model, batch, keys_of(batch)),
        )
    assert once == again
    assert len({loss.item() for loss in (once, other, unflipped)}) == 3


def test_an_edit_is_equivariant(zoo):
    torch.manual_seed(0)
    task = Editing()
    encoder = DWSNetEncoder(zoo.space, width=4, channels=6, num_layers=2).double()
    model = task.build(encoder, task.prepare(zoo)).double().eval()
    for head in model.heads:
        torch.nn.init.normal_(head.weight)
    names = [spec.name for spec in zoo.space.tensors]

    def edit(features):
        state = {name: x.squeeze(-1) for name, x in zip(names, features, strict=True)}
        return [x.unsqueeze(-1) for x in model(state).values()]

    def ordered(features):
        return [
            x + torch.arange(x.shape[1]).view(1, -1, *[1] * (x.ndim - 2)) for x in edit(features)
        ]

    assert_equivariant(zoo.space, edit, 1)
    with pytest.raises(AssertionError):
        assert_equivariant(zoo.space, ordered, 1)


def contract(*activations: str, **known) -> DecodeContract:
    return DecodeContract(
        **dict.fromkeys(DecodeContract.model_fields) | {"activations": activations} | known
    )


RUN_AS = {
    "siren": (WeightSpace.mlp((2, 7, 5, 3)), contract("sine", "sine", "linear", omega=3.0), (9, 2)),
    "cnn": (
        WeightSpace.cnn(2, (6, 5), 3, 4),
        contract("relu", "gelu", "linear", image=ImageContract(grey=False, stride=2)),
        (4, 2, 6, 7),
    ),
}


@pytest.mark.parametrize("expansion", [1, 3])
@pytest.mark.parametrize("kind", RUN_AS)
def test_the_edited_function_does_not_depend_on_the_order_of_neurons(kind, expansion):
    space, how, shape = RUN_AS[kind]
    torch.manual_seed(0)
    encoder = DWSNetEncoder(space, width=4, channels=6, num_layers=2)
    head = WeightsHead(encoder.features(), expansion, init_scale=0.5).double().eval()
    shapes = {spec.name: spec.shape for spec in space.tensors}
    state = {name: torch.randn(3, *one).double() / 3 for name, one in shapes.items()}
    orders = {name: torch.rand(3, size).argsort(1) for name, size in space.hidden.items()}
    permuted = dict(zip(state, permute(space, list(state.values()), orders), strict=True))
    first = space.tensors[0].name
    torn = permuted | {first: state[first]}  # one tensor stays: another function
    inputs = torch.rand(shape, dtype=torch.float64)
    plain, moved, other = (run(head(one), how, inputs) for one in (state, permuted, torn))
    torch.testing.assert_close(moved, plain, rtol=0, atol=1e-10)
    assert (plain - run(state, how, inputs)).abs().max() > 0.1
    assert (other - plain).abs().max() > 0.01


def run(state: dict[str, torch.Tensor], how: DecodeContract, inputs: torch.Tensor) -> torch.Tensor:
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in state.items()}
    with torch.no_grad():
        return Decoder(how, WeightSpace.from_shapes(shapes), "zoo x")(state, inputs)


def test_what_an_operation_hid_is_learned_from_the_originals(tmp_path):
    zoo = build(tmp_path / "zoo", operation="mask")
    task = Editing(operation="identity")
    np.testing.assert_array_equal(task.targets(zoo), zoo.signals().originals)
    assert not np.array_equal(task.targets(zoo), zoo.signals().values)
    task.check(zoo)
    metrics = scores(task, model_of(zoo, task), batch_of(zoo, "test"))
    masked = Editing(operation="mask")  # what the INRs were fitted to
    fitted = scores(masked, model_of(zoo, masked), batch_of(zoo, "test"))
    assert metrics["trivial_mse"] > 1.5 * fitted["trivial_mse"]


def test_predictions_say_how_much_changes(zoo):
    task, batch = Editing(), batch_of(zoo, "test")
    model = model_of(zoo, task).eval()
    with torch.no_grad():
        small = task.predictions(task.outputs(model, batch))["mean_squared_change"]
        for head in model.heads:
            head.weight.mul_(100)
        large = task.predictions(task.outputs(model, batch))["mean_squared_change"]
    assert small.shape == (len(batch),)
    assert (large > small).all()


def test_the_report_has_the_picture_and_the_table(zoo, tmp_path):
    task = Editing()
    model = model_of(zoo, task).eval()
    metrics = scores(task, model, batch_of(zoo, "test")) | {"split": "test"}
    figure, table = task.figures(metrics, Evaluation(zoo, model, task.prepare(zoo), None))
    figure.draw(tmp_path / figure.file)
    assert (tmp_path / figure.file).stat().st_size > 1000
    assert "'dilate' of the signal" in figure.text
    assert table.rows[0] == ("unedited", f"{metrics['trivial_mse']:.3e}")
    wide = Editing(expansion=3).figures(metrics, Evaluation(zoo, model, {}, None))
    assert "3 times as wide" in wide[0].text
    assert "3 times as wide" in wide[1].rows[1][0]


def test_what_cannot_teach_it_is_refused_in_a_sentence(zoo):
    def changed(**fields):
        return Zoo(zoo.folder, zoo.record.model_copy(update=fields), zoo.shards, None)

    decode = zoo.record.decode
    relu = decode.model_copy(update={"activations": ("relu", "relu", "linear")})
    with pytest.raises(InputError, match="needs networks of odd activations"):
        Editing().check(changed(decode=relu))
    Editing(augmentation=Augmentation()).check(changed(decode=relu))
    with pytest.raises(
        InputError, match=r"targets of task editing do not move with the signal: leave out .*zoom"
    ):
        Editing(augmentation=Augmentation(zoom=1.1)).check(zoo)
    unknown = decode.model_copy(update={"activations": None})
    with pytest.raises(InputError, match="cannot run members of zoo"):
        Editing().check(changed(decode=unknown))
    with pytest.raises(
        InputError, match="made from the original signals, and the zoo was imported"
    ):
        Editing().check(changed(imported=True))
    signals = zoo.record.config.signals.model_copy(update={"source": "mine:make"})
    own = zoo.record.config.model_copy(update={"signals": signals})
    with pytest.raises(InputError, match=r"made by mine:make, code .* only with `--trust mine`"):
        Editing().check(changed(config=own))
