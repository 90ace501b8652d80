"""Layers are ordinary modules: meta device, hooks, copies, export, checkpointing, any batch."""

import copy
import pickle

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, export
from torch.fx.experimental.proxy_tensor import make_fx

from dwsnet import (
    BatchNorm,
    DownsampledLinear,
    DWSNet,
    DWSNetClassifier,
    DWSNetEditor,
    EquivariantAttention,
    EquivariantLinear,
    InvariantLinear,
    MemberNorm,
    WeightSpace,
)
from dwsnet.canonical import canonical_phases, canonical_scales
from dwsnet.encoders import FlatMLPEncoder, INR2VecEncoder, StatisticsEncoder, TransformerEncoder
from dwsnet.heads import WeightsHead
from dwsnet.symmetry import canonical_signs

SPACE = WeightSpace.mlp((2, 5, 4, 1))
LAYERS = {
    "linear": lambda: EquivariantLinear(SPACE, 16, 16),
    "sum": lambda: EquivariantLinear(SPACE, 16, 16, "sum"),
    "attention pooling": lambda: EquivariantLinear(SPACE, 16, 16, "attention"),
    "attention": lambda: EquivariantAttention(SPACE, 16, 16),
    "diagonal": lambda: EquivariantLinear(SPACE, 16, 16, diagonal=True),
    "invariant": lambda: InvariantLinear(SPACE, 16, 3),
    "invariant, sum": lambda: InvariantLinear(SPACE, 16, 3, "sum"),
    "downsampled": lambda: DownsampledLinear(SPACE, "layer0", 1, 16, 16),
    "batch norm": lambda: BatchNorm(SPACE, 16),
    "member norm": lambda: MemberNorm(SPACE, 16),
    "trunk": lambda: DWSNet(SPACE, 16, 16, 2),
    "attending trunk": lambda: DWSNet(SPACE, 16, 16, 3, num_heads=2, skip=True, checkpoint=True),
}
every_layer = pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
CONTAINERS = (
    torch.nn.ModuleList,
    torch.nn.ModuleDict,
    torch.nn.ParameterList,
    torch.nn.ParameterDict,
)


def features(seed: int = 0, batch: int = 3, channels: int = 16):
    generator = torch.Generator("cpu").manual_seed(seed)
    return tuple(
        torch.randn(batch, *spec.shape, channels, generator=generator) for spec in SPACE.tensors
    )


def state(batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return {
        spec.name: torch.randn(batch, *spec.shape, generator=generator) for spec in SPACE.tensors
    }


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def assert_close(one, other):
    for x, y in zip(as_tuple(one), as_tuple(other), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@every_layer
def test_shapes_without_memory(build):
    expected = [x.shape for x in as_tuple(build()(features()))]
    with torch.device("meta"):
        outputs = as_tuple(build()(tuple(torch.empty_like(x, device="meta") for x in features())))
    assert [x.shape for x in outputs] == expected
    assert all(x.is_meta for x in outputs)
    sum(x.sum() for x in outputs).backward()
    with FakeTensorMode():
        outputs = as_tuple(build()(tuple(torch.empty(x.shape) for x in features())))
    assert [x.shape for x in outputs] == expected


@every_layer
def test_a_layer_made_without_memory_takes_a_state_dict(build):
    torch.manual_seed(0)
    layer = build().eval()
    with torch.device("meta"):
        made = build().eval()
    made.to_empty(device="cpu").load_state_dict(layer.state_dict())
    assert_close(made(features()), layer(features()))


@every_layer
def test_copies_views_and_modes_change_nothing(build):
    torch.manual_seed(0)
    layer = build().eval()
    expected = layer(features())
    for one in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_close(one(features()), expected)
    assert_close(
        layer(tuple(x.movedim(0, -1).clone().movedim(-1, 0) for x in features())), expected
    )
    with torch.no_grad():
        assert_close(layer(features()), expected)
    with torch.inference_mode():
        assert_close(layer(features()), expected)


@every_layer
def test_every_module_can_be_watched(build):
    layer, seen, members = build(), {}, []
    expected = copy.deepcopy(layer)(features())
    for name, module in layer.named_modules():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output})
        )
    layer.register_forward_hook(lambda module, inputs, output: members.append(output))
    assert_close(layer(features()), expected)
    watched = {name for name, one in layer.named_modules() if not isinstance(one, CONTAINERS)}
    assert watched <= set(seen)
    assert_close(members[0], expected)


def test_a_hook_changes_what_comes_out_of_a_layer_among_others():
    net = DWSNet(SPACE, 16, 16, 3).eval()
    expected = net(features())
    handle = net.layers[1].register_forward_hook(
        lambda module, inputs, output: tuple(0 * x for x in output)
    )
    zeros = tuple(torch.nn.functional.gelu(x) for x in net.norms[2](net.layers[2](expected)))
    assert not torch.allclose(net(features())[0], zeros[0])
    assert all(x.var(0).max() < 1e-10 for x in net(features())), "members are alike from there on"
    handle.remove()
    assert_close(net(features()), expected)


def test_what_is_recorded_is_what_is_computed():
    """A recorded graph computes the layer for other values than those it was recorded with."""
    layer = EquivariantLinear(SPACE, 16, 16)
    graph = make_fx(lambda *x: layer(x))(*features(0))
    assert_close(graph(*features(1)), layer(features(1)))


class Canonical(torch.nn.Module):
    def forward(self, state: dict[str, torch.Tensor]):
        tensors = canonical_scales(SPACE, canonical_signs(SPACE, tuple(state.values())))
        return canonical_phases(SPACE, tensors, 30.0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "model",
    [
        Canonical(),
        DWSNetEditor(SPACE, 4, 2, expansion=2),
        DWSNetClassifier(SPACE, 3, 4, 2, 8, canonical_signs=True, num_heads=2, pooling="sum"),
        TransformerEncoder(SPACE, 2),
    ],
    ids=["canonical", "editor", "classifier", "transformer"],
)
def test_models_are_exported_for_every_batch(model):
    model.eval()
    shapes = ({name: {0: Dim("members", min=1, max=512)} for name in state(1)},)
    exported = export(model, (state(4),), dynamic_shapes=shapes).module()
    for batch in (1, 5, 9):
        found, expected = exported(state(batch)), model(state(batch))
        if isinstance(expected, dict):
            found, expected = tuple(found.values()), tuple(expected.values())
        assert_close(found, expected)


@pytest.mark.parametrize("options", [{}, {"num_heads": 2}, {"norm": "member"}], ids=str)
def test_a_recomputed_trunk_is_after_some_steps_what_a_kept_one_is(options):
    """Parameters, running statistics, their counter, and the next random numbers are equal."""
    found = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        net = DWSNet(SPACE, 4, 4, 3, dropout=0.4, skip=True, checkpoint=checkpoint, **options)
        net = net.double()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for step in range(3):
            inputs = tuple(x.double() for x in features(step, channels=4))
            sum(x.square().sum() for x in net(inputs)).backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(net.state_dict() | {"next": torch.rand(3).double()})
    for name, kept in found[0].items():
        torch.testing.assert_close(found[1][name], kept, rtol=1e-9, atol=1e-9)
    if not options:
        assert found[1]["norms.0.norms.0.num_batches_tracked"] == 3


def test_a_recomputed_step_sees_the_parameters_that_it_was_called_with():
    gradients = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        net = DWSNet(SPACE, 4, 4, 2, checkpoint=checkpoint).double()
        others = {
            name: (2 * parameter).detach().requires_grad_()
            for name, parameter in net.named_parameters()
        }
        inputs = tuple(x.double() for x in features(channels=4))
        outputs = torch.func.functional_call(net, others, (inputs,))
        loss = sum((x**3).sum() for x in outputs)
        gradients.append(torch.autograd.grad(loss, list(others.values())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "model",
    [
        DWSNetClassifier(SPACE, 3, 4, 2, 8),
        DWSNetEditor(SPACE, 4, 2),
        FlatMLPEncoder(SPACE, 8),
        WeightsHead(FlatMLPEncoder(SPACE, 8).features()),
        INR2VecEncoder(SPACE, 8),
        StatisticsEncoder(SPACE, 8),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_batch_of_one_trains_as_it_is_evaluated(model):
    """With one member and one output, the last bias has one value per channel."""
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for batch in (1, 4, 1):
        outputs = model.train()(state(batch))
        values = outputs.values() if isinstance(outputs, dict) else [outputs]
        sum(x.square().sum() for x in values).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert any(not torch.allclose(before[n], value) for n, value in model.named_parameters())


def test_one_value_is_normalised_by_running_statistics():
    norm = BatchNorm(SPACE, 16)
    norm(features(batch=4))
    trained = norm(features(1, batch=1))[-1]
    assert norm.norms[-1].num_batches_tracked == 1
    assert norm.norms[0].num_batches_tracked == 2
    assert_close(trained, norm.eval()(features(1, batch=1))[-1])
