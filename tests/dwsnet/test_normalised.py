"""Norm and GELU inside the compiled layers of a trunk against separate PyTorch modules."""

import copy

import pytest
import torch

from dwsnet import DWSNet, DWSNetClassifier, WeightSpace, kernel, normalised
from dwsnet.testing import random_features

pytestmark = pytest.mark.skipif(kernel.load_kernel() is None, reason="no C++ compiler here")

SPACES = {
    "mlp": WeightSpace.mlp((2, 9, 17, 5, 1)),
    "wide ends": WeightSpace.mlp((3, 33, 4, 7)),
    "cnn": WeightSpace.cnn(2, (5, 4, 3), 3, 7),
    "large global matrix": WeightSpace.mlp((2, *[3] * 9, 1)),
}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


@pytest.fixture
def runs(monkeypatch) -> list[int]:
    """A list with one entry per call of the fused trunk."""
    found, run = [], normalised.run
    monkeypatch.setattr(normalised, "run", lambda *of: found.append(1) or run(*of))
    return found


def features_of(space: WeightSpace, batch: int, channels: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [x.float() for x in random_features(space, batch, channels, generator)]


def networks_of(space: WeightSpace, batch: int) -> list[torch.Tensor]:
    return [x.squeeze(-1) for x in features_of(space, batch, 1)]


def a_trunk(space: WeightSpace, in_channels: int = 16, num_layers: int = 3, **options) -> DWSNet:
    """A trunk whose gains, shifts and running statistics differ between channels."""
    torch.manual_seed(0)
    trunk = DWSNet(space, in_channels, 32, num_layers, skip=False, **options)
    for norm in trunk.norms:
        for part in norm.norms:
            torch.nn.init.normal_(part.weight, 1.0, 0.3)
            torch.nn.init.normal_(part.bias, 0.0, 0.3)
            torch.nn.init.normal_(part.running_mean, 0.0, 0.3)
            torch.nn.init.uniform_(part.running_var, 0.5, 2.0)
    return trunk


def everything(trunk: DWSNet, features: list[torch.Tensor], dtype: torch.dtype) -> dict:
    """Outputs, gradients of features and parameters for a random cotangent, and buffers."""
    trunk = copy.deepcopy(trunk).to(dtype)
    features = [x.to(dtype, copy=True).requires_grad_(x.shape[-1] > 1) for x in features]
    outputs = trunk(features)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(y.shape, generator=generator).to(dtype) for y in outputs]
    torch.autograd.backward(outputs, cotangents)
    return {
        **{f"output {i}": y.detach() for i, y in enumerate(outputs)},
        **{f"feature {i}": x.grad for i, x in enumerate(features) if x.grad is not None},
        **{name: x.grad for name, x in trunk.named_parameters()},
        **dict(trunk.named_buffers()),
    }


def assert_close(found: dict, expected: dict, tolerance: float = 1e-4):
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        scale = max(1.0, x.abs().max().item())
        torch.testing.assert_close(
            found[name].double(),
            x.double(),
            rtol=tolerance,
            atol=tolerance * scale,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@every_space
@pytest.mark.parametrize("in_channels", [1, 16])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_modules_one_after_the_other(runs, space, in_channels, training):
    trunk = a_trunk(space, in_channels).train(training)
    features = features_of(space, 11, in_channels)
    found = everything(trunk, features, torch.float32)
    assert runs
    expected = everything(trunk, features, torch.float64)
    assert len(runs) == 1, "float64 is PyTorch's"
    assert_close(found, expected)


def test_a_norm_with_other_statistics_is_noticed(monkeypatch):
    """The comparison fails if statistics are divided by a wrong number of entries."""
    trunk, features = a_trunk(SPACES["mlp"]), features_of(SPACES["mlp"], 11, 16)
    expected = everything(trunk, features, torch.float64)
    of = trunk.norms[0].__class__.coefficients
    monkeypatch.setattr(
        trunk.norms[0].__class__, "coefficients", lambda norm, sums, n: of(norm, sums, n + 1)
    )
    with pytest.raises(AssertionError):
        assert_close(everything(trunk, features, torch.float32), expected)


def test_a_mean_far_from_zero_leaves_the_spread(runs):
    """Sums of squares lose a spread that is small beside the mean; float64 loses little."""
    trunk, features = a_trunk(SPACES["mlp"]), features_of(SPACES["mlp"], 11, 16)
    for bias in trunk.layers[0].biases:
        torch.nn.init.constant_(bias, 100.0)
    found = everything(trunk, features, torch.float32)
    assert runs
    expected = everything(trunk, features, torch.float64)
    outputs = [name for name in expected if name.startswith("output")]
    assert_close({n: found[n] for n in outputs}, {n: expected[n] for n in outputs}, 1e-2)


def test_one_member_alone(runs):
    """The last bias is then one value without a spread, so running statistics are used."""
    trunk, features = a_trunk(SPACES["mlp"]), features_of(SPACES["mlp"], 1, 16)
    found = everything(trunk, features, torch.float32)
    assert runs
    assert found["norms.0.norms.7.num_batches_tracked"] == 0
    assert_close(found, everything(trunk, features, torch.float64), 1e-3)


def test_threads_share_the_members(runs):
    trunk, features = a_trunk(SPACES["mlp"]), features_of(SPACES["mlp"], 7, 16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = everything(trunk, features, torch.float32)
        torch.set_num_threads(3)
        together = everything(trunk, features, torch.float32)
    finally:
        torch.set_num_threads(before)
    assert len(runs) == 2
    assert_close(together, alone)


def test_the_second_derivative_is_pytorchs(runs):
    trunk = a_trunk(SPACES["wide ends"], num_layers=2)
    found = []
    for dtype in (torch.float32, torch.float64):
        one = copy.deepcopy(trunk).to(dtype)
        features = [x.to(dtype) for x in features_of(SPACES["wide ends"], 4, 16)]
        loss = sum(y.square().mean() for y in one(features))
        gradients = torch.autograd.grad(loss, [*one.parameters()], create_graph=True)
        sum(g.square().sum() for g in gradients).backward()
        found.append({name: x.grad for name, x in one.named_parameters()})
    assert len(runs) == 1
    assert_close(*found, 1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "member"},
        {"num_heads": 2},
        {"pooling": "max"},
        {"dropout": 0.1},
        {"checkpoint": True},
    ],
    ids=str,
)
def test_what_it_does_not_do_it_leaves_to_the_modules(runs, options):
    trunk = a_trunk(SPACES["mlp"], **options) if options.get("norm") != "member" else None
    trunk = trunk or DWSNet(SPACES["mlp"], 16, 32, 3, **options)
    features = features_of(SPACES["mlp"], 5, 16)
    trunk(features)
    assert not runs
    with torch.autocast("cpu", torch.bfloat16):
        a_trunk(SPACES["mlp"])(features)
    assert not runs


def test_a_hook_is_called(runs):
    trunk, seen = a_trunk(SPACES["mlp"]), []
    trunk.norms[1].norms[2].register_forward_hook(lambda *of: seen.append(1))
    trunk(features_of(SPACES["mlp"], 5, 16))
    assert seen
    assert not runs


def test_only_what_layers_write_is_kept(runs):
    space = SPACES["wide ends"]
    trunk, features = a_trunk(space, num_layers=4), features_of(space, 64, 16)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.setdefault(x.data_ptr(), x), lambda x: x
    ):
        trunk(features)
    parameters = sum(x.numel() for x in trunk.parameters())
    numbers = sum(x.numel() for x in kept.values())
    written = sum(x.numel() for x in features) * (1 + 4 * 2)  # twice as many channels
    assert written <= numbers <= 1.05 * written + 2 * parameters
    assert runs


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("training", [True, False])
def test_the_trunk_compiles_to_one_graph(training):
    space = SPACES["wide ends"]
    trunk, features = a_trunk(space, num_layers=2).train(training), features_of(space, 5, 16)
    compiled = copy.deepcopy(trunk)
    call = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for one, other in zip(call(features), trunk(features), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_an_encoder_pools_without_the_features_being_written(runs, monkeypatch):
    calls, pooled = [], normalised.pooled
    monkeypatch.setattr(normalised, "pooled", lambda *of: calls.append(1) or pooled(*of))
    space = SPACES["cnn"]
    torch.manual_seed(0)
    model = DWSNetClassifier(space, 7, 32, 3, 24)
    state = dict(zip([spec.name for spec in space.tensors], networks_of(space, 9), strict=True))
    found = []
    for dtype in (torch.float32, torch.float64):
        one = copy.deepcopy(model).to(dtype)
        logits = one({name: x.to(dtype) for name, x in state.items()})
        logits.square().sum().backward()
        gradients = {name: x.grad for name, x in one.named_parameters()}
        found.append({"logits": logits.detach(), **gradients, **dict(one.named_buffers())})
    assert (len(calls), len(runs)) == (1, 0)
    assert_close(*found)
    model.encoder.trunk.register_forward_hook(
        lambda module, inputs, outputs: tuple(0 * x for x in outputs)
    )
    logits = model(state)
    assert (len(calls), len(runs)) == (1, 1), "what a hook sees is written"
    torch.testing.assert_close(logits, logits[:1].expand_as(logits))
