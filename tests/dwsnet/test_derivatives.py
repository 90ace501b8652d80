"""Every layer has every derivative: second derivatives, forward mode and torch.func."""

import copy

import pytest
import torch
from torch.func import functional_call, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from dwsnet import (
    Axis,
    BatchNorm,
    DownsampledLinear,
    DWSNet,
    DWSNetClassifier,
    DWSNetEditor,
    EquivariantAttention,
    EquivariantLinear,
    InvariantLinear,
    MemberNorm,
    TensorSpec,
    WeightSpace,
    equivariant_map,
)
from dwsnet.encoders import (
    AlignedMLPEncoder,
    FlatMLPEncoder,
    INR2VecEncoder,
    ProbingEncoder,
    StatisticsEncoder,
    TransformerEncoder,
)
from dwsnet.heads import ValuesHead, WeightsHead
from dwsnet.testing import random_features

pytestmark = pytest.mark.usefixtures("unchecked")

SPACE = WeightSpace.mlp((2, 4, 3, 1))
A, B = Axis("a", 3, True), Axis("b", 2, True)
TWICE = WeightSpace((TensorSpec("x", (A, B)), TensorSpec("y", (B, A)), TensorSpec("z", (A,))))
ALONE = WeightSpace((TensorSpec("x", (A,)),))
"""One tensor without fixed axes: with one channel, its global features have one dimension."""
LAYERS = {
    "linear": lambda: EquivariantLinear(SPACE, 2, 3),
    "tensors with the same axes": lambda: EquivariantLinear(TWICE, 2, 3),
    "one tensor of one channel": lambda: EquivariantLinear(ALONE, 1, 1),
    "sum": lambda: EquivariantLinear(SPACE, 2, 3, "sum"),
    "max": lambda: EquivariantLinear(SPACE, 2, 3, "max"),
    "attention pooling": lambda: EquivariantLinear(SPACE, 2, 3, "attention"),
    "attention": lambda: EquivariantAttention(SPACE, 2, 3, 2, 3),
    "attention, sum": lambda: EquivariantAttention(TWICE, 2, 3, 2, 3, "sum"),
    "invariant": lambda: InvariantLinear(SPACE, 2, 3),
    "invariant, attention": lambda: InvariantLinear(SPACE, 2, 3, "attention"),
    "downsampled": lambda: DownsampledLinear(SPACE, "layer0", 1, 2, 3),
    "batch norm": lambda: BatchNorm(SPACE, 2),
    "member norm": lambda: MemberNorm(SPACE, 2),
    "trunk": lambda: DWSNet(SPACE, 2, 3, 2, num_heads=2, skip=True),
    "recomputed trunk": lambda: DWSNet(SPACE, 2, 3, 2, norm="member", checkpoint=True),
}
every_layer = pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)


def as_function(layer: torch.nn.Module):
    """The layer as a function of features and parameters, with these arguments."""
    generator = torch.Generator().manual_seed(0)
    features = random_features(getattr(layer, "space", SPACE), 3, first_channels(layer), generator)
    names = [name for name, _ in layer.named_parameters()]
    values = [
        torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2
        for parameter in layer.parameters()
    ]
    buffers = dict(layer.named_buffers())

    def call(*tensors):
        parameters = dict(zip(names, tensors[len(features) :], strict=True))
        state = parameters | {name: value.clone() for name, value in buffers.items()}
        outputs = functional_call(layer, state, (tensors[: len(features)],))
        return outputs if isinstance(outputs, tuple) else (outputs,)

    return call, [x.requires_grad_() for x in (*features, *values)]


def first_channels(layer: torch.nn.Module) -> int:
    return 1 if getattr(layer, "space", None) is ALONE else 2


def as_vectors(call, inputs):
    """The same function from one vector to one vector, which takes far fewer steps to check."""
    shapes = [x.shape for x in inputs]

    def flat(row):
        parts = row.split([shape.numel() for shape in shapes])
        outputs = call(*(part.view(shape) for part, shape in zip(parts, shapes, strict=True)))
        return torch.cat([x.flatten() for x in outputs])

    return flat, torch.cat([x.detach().flatten() for x in inputs]).requires_grad_()


def assert_second_derivatives(call, inputs):
    """They match the first derivative, which does not depend on `create_graph`."""
    flat, row = as_vectors(call, inputs)
    assert torch.autograd.gradgradcheck(
        flat, row, fast_mode=True, atol=1e-4, check_fwd_over_rev=True
    )
    cotangent = torch.linspace(-1, 1, len(flat(row)), dtype=torch.float64)
    one, other = (
        torch.autograd.grad(flat(row), row, cotangent, create_graph=more)[0]
        for more in (True, False)
    )
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def detached(tensors):
    return [x.detach() for x in tensors]


@every_layer
def test_second_and_forward_derivatives_are_right(build):
    call, inputs = as_function(build().double())
    assert torch.autograd.gradcheck(
        *as_vectors(call, inputs), fast_mode=True, check_forward_ad=True
    )
    assert_second_derivatives(call, inputs)


@every_layer
def test_torch_func_is_plain_autograd(build):
    call, inputs = as_function(build().double())

    def loss(*tensors):
        return sum((x**3).sum() for x in call(*tensors))

    everything = tuple(range(len(inputs)))
    expected = torch.autograd.grad(loss(*inputs), inputs, materialize_grads=True)
    found = torch.func.grad(loss, everything)(*detached(inputs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)

    first, *others = detached(inputs)

    def of_first(x):
        return loss(x, *others)

    for transform in (jacrev, jacfwd):
        torch.testing.assert_close(transform(of_first)(first), expected[0], rtol=1e-9, atol=1e-9)
    direction = torch.linspace(-1, 1, first.numel(), dtype=torch.float64).view_as(first)
    along = jvp(of_first, (first,), (direction,))[1]
    torch.testing.assert_close(along, (expected[0] * direction).sum(), rtol=1e-9, atol=1e-9)
    second = torch.autograd.functional.hessian(of_first, first)
    torch.testing.assert_close(hessian(of_first)(first), second, rtol=1e-8, atol=1e-8)


@every_layer
def test_gradients_of_many_outputs_at_once(build):
    call, inputs = as_function(build().double())
    output = call(*inputs)[0].sum(0).flatten()
    many = torch.autograd.grad(
        output,
        inputs[0],
        torch.eye(len(output), dtype=torch.float64),
        is_grads_batched=True,
        retain_graph=True,
    )[0]
    for i, one in enumerate(many):
        expected = torch.autograd.grad(output[i], inputs[0], retain_graph=True)[0]
        torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-9)


@every_layer
@pytest.mark.parametrize("same_features", [True, False])
def test_stacked_modules_run_at_once(build, same_features):
    torch.manual_seed(0)
    layers = [build().double() for _ in range(3)]
    stacked = stack_module_state(layers)
    space, channels = getattr(layers[0], "space", SPACE), first_channels(layers[0])
    each = [
        random_features(
            space, 2, channels, torch.Generator().manual_seed(0 if same_features else i)
        )
        for i in range(3)
    ]
    features = each[0] if same_features else tuple(map(torch.stack, zip(*each, strict=True)))
    base = copy.deepcopy(layers[0])

    def call(parameters, buffers, x):
        return functional_call(base, (parameters, buffers), (x,))

    found = vmap(call, (0, 0, None if same_features else 0), randomness="error")(*stacked, features)
    found = found if isinstance(found, tuple) else (found,)
    for i, layer in enumerate(layers):
        expected = layer(each[i])
        expected = expected if isinstance(expected, tuple) else (expected,)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[i], other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{"canonical_signs": True}, {"num_heads": 2}], ids=str)
def test_gradients_of_every_member_of_a_classifier(options):
    torch.manual_seed(0)
    model = DWSNetClassifier(SPACE, 3, 4, 2, 8, **options).double().eval()
    state = {spec.name: torch.randn(5, *spec.shape).double() for spec in SPACE.tensors}
    labels = torch.tensor([0, 1, 2, 0, 1])

    def loss(parameters, member, label):
        batch = {name: tensor.unsqueeze(0) for name, tensor in member.items()}
        logits = functional_call(model, parameters, (batch,))
        return torch.nn.functional.cross_entropy(logits, label.unsqueeze(0))

    parameters = dict(model.named_parameters())
    found = vmap(torch.func.grad(loss), (None, 0, 0))(parameters, state, labels)
    for i in range(5):
        one = {name: tensor[i] for name, tensor in state.items()}
        expected = torch.autograd.grad(loss(parameters, one, labels[i]), parameters.values())
        for name, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(found[name][i], gradient, rtol=1e-9, atol=1e-9)


def random_state(seed: int, batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        spec.name: torch.randn(batch, *spec.shape, generator=generator, dtype=torch.float64)
        for spec in SPACE.tensors
    }


class Edited(torch.nn.Module):
    """All entries of edited networks, concatenated."""

    def __init__(self, features: torch.nn.Module):
        super().__init__()
        self.head = WeightsHead(features, init_scale=0.1)

    def forward(self, state):
        return torch.cat([x.flatten(1) for x in self.head(state).values()], 1)


ENCODERS = {
    "flat": lambda: FlatMLPEncoder(SPACE, 5),
    "aligned": lambda: AlignedMLPEncoder(SPACE, 5),
    "inr2vec": lambda: INR2VecEncoder(SPACE, 4),
    "transformer": lambda: TransformerEncoder(SPACE, 1),
    "statistics": lambda: StatisticsEncoder(SPACE, 5),
    "probing": lambda: ProbingEncoder(SPACE, 5, 3, torch.sin),
}
HEADS = {
    "vector": lambda encoder: ValuesHead(encoder, 3),
    "features": lambda encoder: Edited(encoder.features()),
}


@pytest.mark.parametrize(
    ("encoder", "head"),
    [
        pytest.param(ENCODERS[encoder], HEADS[head], id=f"{encoder}-{head}")
        for encoder in ENCODERS
        for head in HEADS
        if (encoder, head) not in (("statistics", "features"), ("probing", "features"))
    ],
)
def test_baselines_have_every_derivative_too(encoder, head):
    torch.manual_seed(0)
    statistics = {spec.name: {"mean": 0.1, "std": 1.5} for spec in SPACE.tensors}
    encoders = [
        encoder().double().calibrate(statistics, random_state(seed, 6)) for seed in range(2)
    ]
    models = [head(one).double().eval() for one in encoders]
    model, state = models[0], random_state(2, 4)
    parameters = dict(model.named_parameters())

    def loss(parameters, networks):
        return functional_call(model, parameters, (networks,)).square().sum()

    # Per member, and second derivatives in the parameters themselves: forward over reverse, and
    # reverse over reverse.
    each = vmap(torch.func.grad(loss), (None, 0))(
        parameters, {name: x.unsqueeze(1) for name, x in state.items()}
    )
    total = torch.autograd.grad(loss(parameters, state), [*parameters.values()], create_graph=True)
    for name, gradient in zip(parameters, total, strict=True):
        torch.testing.assert_close(each[name].sum(0), gradient, rtol=1e-9, atol=1e-9)
    along = sum((g * p.detach()).sum() for g, p in zip(total, parameters.values(), strict=True))
    expected = torch.autograd.grad(along, [*parameters.values()], materialize_grads=True)
    values = {name: p.detach() for name, p in parameters.items()}
    _, found = jvp(lambda p: torch.func.grad(loss)(p, state), (values,), (values,))
    for name, second in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[name], second, rtol=1e-8, atol=1e-8)

    def call(parameters, buffers):
        return functional_call(model, (parameters, buffers), (state,))

    stacked = vmap(call)(*stack_module_state(models))
    torch.testing.assert_close(stacked, torch.stack([one(state) for one in models]))


def test_a_hessian_through_an_editor():
    torch.manual_seed(0)
    editor = DWSNetEditor(SPACE, 3, 2, init_scale=1.0, norm="member").double()
    state = {spec.name: torch.randn(1, *spec.shape).double() for spec in SPACE.tensors}
    name = "layers.2.bias"

    def loss(x):
        return sum(y.square().sum() for y in editor(state | {name: x}).values())

    torch.testing.assert_close(
        hessian(loss)(state[name]), torch.autograd.functional.hessian(loss, state[name])
    )


@pytest.mark.parametrize(
    "build",
    [
        lambda: EquivariantLinear(SPACE, 16, 16),
        lambda: EquivariantAttention(SPACE, 16, 16),
        lambda: DWSNet(SPACE, 16, 16, 2),
    ],
    ids=["linear", "attention", "trunk"],
)
def test_a_penalty_on_gradients_of_layers_that_are_compiled(build):
    """Float32 with 16 channels: the first derivative is the kernel's, the second PyTorch's."""
    torch.manual_seed(0)
    layer = build()
    double = copy.deepcopy(layer).double()
    penalties = []
    for one, dtype in ((layer, torch.float32), (double, torch.float64)):
        generator = torch.Generator().manual_seed(0)
        features = [x.to(dtype) for x in random_features(SPACE, 3, 16, generator)]
        features[0].requires_grad_()
        loss = sum(y.square().sum() for y in one(features))
        (slope,) = torch.autograd.grad(loss, features[0], create_graph=True)
        slope.square().mean().backward()
        penalties.append(
            torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None])
        )
    expected = penalties[1].float()
    torch.testing.assert_close(penalties[0], expected, rtol=1e-2, atol=1e-2 * expected.abs().max())


def test_a_twin_that_is_another_map_would_be_found(monkeypatch):
    true = equivariant_map.plain_scatter
    monkeypatch.setattr(
        equivariant_map,
        "plain_scatter",
        lambda *arguments: [1.01 * y for y in true(*arguments)],
    )
    call, inputs = as_function(EquivariantLinear(SPACE, 2, 3, "max").double())
    with pytest.raises(AssertionError, match="not close"):
        assert_second_derivatives(call, inputs)
