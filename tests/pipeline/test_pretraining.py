"""Tasks without labels learn; what they hide depends on no batch, order or rank."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch.nn import functional as F

from dwsnet.encoders import DWSNetEncoder, StatisticsEncoder
from dwsnet.pretraining import of_all_ranks, similarities
from pipeline.archive.zoo import Zoo
from pipeline.decode import ImageContract
from pipeline.errors import InputError
from pipeline.tasks import Evaluation
from pipeline.tasks.augmentation import Augmentation
from pipeline.tasks.contrastive import Contrastive
from pipeline.tasks.masked import Masked
from pipeline.tasks.reconstruction import Reconstruction
from pipeline.training.loader import Feed
from pipeline.training.scoring import add_up, sums_over

TASKS = {
    "augmented": Contrastive(augmentation=Augmentation(noise=0.1)),
    "views": Contrastive(positives="views"),
    "reconstruction": Reconstruction(points=25, decoder_width=16, decoder_layers=1),
    "masked": Masked(),
}


def model_for(task, zoo: Zoo) -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = DWSNetEncoder(zoo.space, 8, 8, 2, canonical_signs=True)
    block, _ = next(zoo.blocks("train"))
    model = task.build(encoder.calibrate(zoo.statistics, block), task.prepare(zoo))
    task.attach(model, zoo)
    return model


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_loss_falls_below_the_trivial_one(task, zoo):
    """On the training set itself, as a few dozen steps do not generalise."""
    model = model_for(task, zoo)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    feed = Feed.of(task, zoo, "train")
    before = task.metrics(sums_over(task, model.eval(), feed.whole()))
    for epoch in range(1, 13):
        model.train()
        for batch in feed.epoch(epoch, 32):
            optimizer.zero_grad()
            task.loss(model, batch, feed.keys(epoch, batch)).backward()
            optimizer.step()
    after = task.metrics(sums_over(task, model.eval(), feed.whole()))
    assert after["loss"] < 0.99 * before["loss"]
    trivial = {name: value for name, value in after.items() if name.startswith("trivial_")}
    for name, value in trivial.items():
        own = after[name.removeprefix("trivial_")]
        assert own < value if name.endswith("loss") else own > value


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_sums_add_up_and_are_the_same_again(task, zoo):
    model = model_for(task, zoo).eval()
    batches = list(Feed.of(task, zoo, "validation").whole())
    parts = [sums_over(task, model, [batch]) for batch in batches]
    whole = sums_over(task, model, batches)
    assert add_up(parts).keys() == whole.keys()
    for name, value in add_up(parts).items():
        torch.testing.assert_close(value, whole[name])
    assert task.metrics(whole).keys() >= {task.monitor.metric, "loss"}


def test_which_entries_are_hidden_is_the_members_own(zoo):
    task, keys = Masked(share=0.3), torch.arange(-50, 50)
    whole = task.hidden(zoo.space, keys)
    for mask, part in zip(whole, task.hidden(zoo.space, keys[[7, 3]]), strict=True):
        assert torch.equal(part, mask[[7, 3]])
    share = torch.cat([mask.flatten() for mask in whole]).double().mean()
    assert float(share) == pytest.approx(0.3, abs=0.02)
    assert [mask.shape[1:] for mask in whole] == [spec.shape for spec in zoo.space.tensors]


def test_two_copies_of_a_network_are_not_the_same(zoo):
    """Without augmentation they are the same, and the loss compares a network with the others."""
    task = TASKS["augmented"]
    model, batch = model_for(task, zoo).eval(), next(Feed.of(task, zoo, "train").whole())
    one, other, signal = task.pairs(model, batch, batch.positions)
    assert one.shape == other.shape == (len(batch), 8)
    assert torch.equal(signal, batch.columns["source_index"])
    assert (one - other).abs().max() > 1e-4
    one, other, _ = Contrastive().pairs(model, batch, batch.positions)
    assert (one - other).abs().max() == 0


def test_views_of_a_signal_are_a_pair(zoo):
    task = TASKS["views"]
    model, batch = model_for(task, zoo).eval(), next(Feed.of(task, zoo, "train").whole())
    _, _, signal = task.pairs(model, batch, batch.positions)
    expected = zoo.catalog["source_index"].to_numpy()[batch.positions]
    assert np.array_equal(signal, expected[::2])
    assert np.array_equal(signal, expected[1::2])


def test_what_is_reconstructed_is_what_the_network_renders(zoo):
    task = TASKS["reconstruction"]
    model, batch = model_for(task, zoo), next(Feed.of(task, zoo, "train").whole())
    position = int(batch.positions[3])
    expected = zoo.module(position)(model.points)
    torch.testing.assert_close(task.truth(model, batch)[3], expected, atol=1e-5, rtol=0)
    assert model.points.shape == (25, 2)


def test_predictions_are_the_encoders_vectors(zoo):
    task = TASKS["masked"]
    model, batch = model_for(task, zoo).eval(), next(Feed.of(task, zoo, "test").whole())
    with torch.no_grad():
        columns = task.predictions(task.outputs(model, batch))
        vectors = model.encoder(batch.state).numpy()
    assert [*columns] == [f"embedding_{i}" for i in range(8)]
    np.testing.assert_allclose(np.stack([*columns.values()], 1), vectors, atol=1e-5)


def test_vectors_of_one_number_are_not_projected_to_a_plane(zoo):
    table = pa.table({"embedding_0": [1.0, 2.0, 3.0]})
    evaluation = Evaluation(zoo, torch.nn.Identity(), {}, table)
    assert TASKS["masked"].figures({"split": "test"}, evaluation) == ()


def test_views_need_two_networks_of_a_signal(zoo, monkeypatch):
    TASKS["views"].check(zoo)
    first = pc.field("view") == 0
    monkeypatch.setattr(zoo, "catalog", zoo.catalog.filter(first))
    with pytest.raises(InputError, match=r"two or more INRs of each signal .* zoo.views=2"):
        TASKS["views"].check(zoo)
    TASKS["augmented"].check(zoo)


def test_networks_that_cannot_be_run_are_not_reconstructed(zoo):
    unknown = zoo.record.decode.model_copy(update={"activations": None})
    images = zoo.record.decode.model_copy(update={"image": ImageContract(grey=False)})
    for contract, problem in (
        (unknown, "its record does not say what"),
        (images, "found classifiers"),
    ):
        record = zoo.record.model_copy(update={"decode": contract})
        other = Zoo(zoo.folder, record, zoo.shards, None)
        with pytest.raises(InputError, match=problem):
            Reconstruction().check(other)


def test_entries_are_not_predicted_without_features_of_them(zoo):
    with pytest.raises(ValueError, match="no features of its entries"):
        Masked().build(StatisticsEncoder(zoo.space, 8), {})


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_some_entries_are_hidden_and_some_are_seen(share):
    with pytest.raises(ValidationError, match="share"):
        Masked(share=share)


def pairs_of(weight: torch.Tensor, rows: slice) -> list[torch.Tensor]:
    """Projections of some of eight pairs, and their signals."""
    inputs = torch.randn(2, 8, 6, dtype=torch.float64, generator=torch.manual_seed(0))
    return [*(inputs[:, rows] @ weight), torch.arange(8)[rows]]


def one_rank(rank: int, store: str, out: str):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    own = pairs_of(weight, slice(6 * rank, 6 + 2 * rank))  # six, and two
    loss = F.cross_entropy(*similarities(*map(of_all_ranks, own), 0.1))
    loss.backward()
    dist.all_reduce(weight.grad)
    if rank == 0:
        torch.save([loss.detach(), weight.grad / 2], out)
    dist.destroy_process_group()


def test_pairs_are_compared_over_all_ranks(tmp_path):
    """Loss and gradients are those of one process with the whole batch, not with half of it."""
    torch.multiprocessing.spawn(one_rank, (f"{tmp_path}/store", f"{tmp_path}/out"), nprocs=2)
    loss, gradient = torch.load(tmp_path / "out")
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    whole = F.cross_entropy(*similarities(*pairs_of(weight, slice(8)), 0.1))
    whole.backward()
    torch.testing.assert_close(loss, whole.detach())
    torch.testing.assert_close(gradient, weight.grad)
    half = F.cross_entropy(*similarities(*pairs_of(weight, slice(4)), 0.1))
    assert abs(half - whole) > 1e-3
