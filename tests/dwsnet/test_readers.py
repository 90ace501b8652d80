"""A module or a state dict becomes a weight space, or an error of one sentence."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from dwsnet import DWSNetClassifier, DWSNetEditor, WeightSpace, permute
from dwsnet.pretrained import space_as_json, space_from_json
from dwsnet.state import read_state, write_state
from dwsnet.symmetry import random_scales, scale_units

pytestmark = pytest.mark.fast


def classifier() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2, bias=False)),
        *(nn.GELU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)),
    )


class Siren(nn.Module):
    def __init__(self, skip: bool):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(2, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.skip = skip

    def forward(self, x):
        y = torch.sin(30 * self.first(x))
        z = torch.sin(30 * self.second(y))
        return self.last(y + z if self.skip else z) + 0.5


class LeNet(nn.Module):
    """Convolutions, pooling by functions, a flatten by `view`, linear layers."""

    def __init__(self, flatten: str):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 2)
        self.norm = nn.BatchNorm2d(4)
        self.fc1, self.fc2, self.fc3 = nn.Linear(24, 5), nn.Linear(5, 4), nn.Linear(4, 2)
        self.flatten = flatten

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.relu(self.norm(self.conv2(x)))
        match self.flatten:
            case "view":
                x = x.view(x.size(0), -1)
            case "reshape":
                x = x.reshape((x.shape[0], -1))
            case "number":
                x = x.view(x.size(0), 24)
            case "parameter":
                x = x.view(self.conv2.weight.size(0), -1)
            case "rows":
                x = x.view(-1, 24)
            case "flatten":
                x = torch.flatten(x, 1)
        return F.log_softmax(self.fc3(torch.relu(self.fc2(F.relu(self.fc1(x))))), dim=1)


class Waves(nn.Module):
    """Any operation may be applied to the input before the first layer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", torch.arange(1.0, 4.0), persistent=False)
        self.body = nn.Sequential(nn.Linear(14, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, x):
        angles = (x.unsqueeze(-1) * self.frequencies).flatten(-2)
        return self.body(torch.cat([x, angles.sin(), angles.cos()], -1))


class Pooled(nn.Module):
    """A convolution reduced over some dimensions, and a head."""

    def __init__(self, *dims: int, how: str = "mean"):
        super().__init__()
        self.conv, self.head, self.dims, self.how = nn.Conv2d(1, 4, 3), nn.Linear(4, 2), dims, how

    def forward(self, x):
        return self.head(getattr(self.conv(x), self.how)(self.dims))


def conv_then(*layers: nn.Module, channels: int = 4) -> nn.Sequential:
    """Layers between a convolution and a head that averages."""
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *layers, *pool)


def mlp_then(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 5), *layers, nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


IMAGE, POINTS, LINE = (3, 1, 8, 8), (7, 2), (3, 2, 9)
DESCRIBED = {
    "cnn": (classifier(), (2, 1, 9, 9)),
    "siren": (Siren(skip=False), POINTS),
    "siren, points in sets": (Siren(skip=False), (2, 3, 2)),
    "lenet by view": (LeNet("view"), (3, 1, 9, 7 + 4)),
    "lenet by reshape": (LeNet("reshape"), (3, 1, 9, 11)),
    "lenet by a number": (LeNet("number"), (3, 1, 9, 11)),
    "lenet by flatten": (LeNet("flatten"), (3, 1, 9, 11)),
    "flatten and batch norm": (
        nn.Sequential(
            *(nn.Conv2d(1, 3, 3), nn.PReLU(3), nn.MaxPool2d(2), nn.Flatten(), nn.BatchNorm1d(27)),
            *(nn.LayerNorm(27), nn.Linear(27, 4), nn.ReLU(), nn.Linear(4, 2)),
        ),
        IMAGE,
    ),
    "conv1d": (
        nn.Sequential(
            *(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.AvgPool1d(2)),
            *(nn.Conv1d(4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2)),
        ),
        LINE,
    ),
    "conv3d": (
        nn.Sequential(
            *(nn.Conv3d(1, 3, 2, bias=False), nn.InstanceNorm3d(3, affine=True), nn.LeakyReLU()),
            *(nn.MaxPool3d(2), nn.Conv3d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2)),
        ),
        (2, 1, 5, 5, 3),
    ),
    "transposed": (
        nn.Sequential(nn.ConvTranspose2d(2, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2)),
        (2, 2, 4, 4),
    ),
    "depthwise": (
        conv_then(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)),
        IMAGE,
    ),
    "depthwise transposed": (conv_then(nn.ConvTranspose2d(4, 4, 3, groups=4), nn.ReLU()), IMAGE),
    "batch norm": (mlp_then(nn.BatchNorm1d(5), nn.ReLU()), POINTS),
    "batch norm after": (mlp_then(nn.ReLU(), nn.BatchNorm1d(5)), POINTS),
    "batch norm of the input": (nn.Sequential(nn.BatchNorm1d(2), mlp_then(nn.ReLU())), POINTS),
    "batch norm of a picture that is flattened": (
        nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 4), nn.ELU(), nn.Linear(4, 2)),
        (3, 2, 3, 3),
    ),
    "batch norm of the output": (nn.Sequential(mlp_then(nn.ReLU()), nn.BatchNorm1d(3)), POINTS),
    "batch norm without statistics": (
        conv_then(nn.BatchNorm2d(4, track_running_stats=False)),
        IMAGE,
    ),
    "layer norm": (mlp_then(nn.LayerNorm(5), nn.ReLU()), POINTS),
    "layer norm of pictures": (conv_then(nn.LayerNorm((4, 6, 6)), nn.Conv2d(4, 4, 1)), IMAGE),
    "layer norm of rows": (conv_then(nn.LayerNorm((6, 6)), nn.Conv2d(4, 4, 1)), IMAGE),
    "rms norm": (mlp_then(nn.RMSNorm(5), nn.ReLU()), POINTS),
    "group norm": (
        conv_then(
            *(nn.GroupNorm(1, 4), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False)),
            *(nn.GroupNorm(4, 4), nn.ReLU()),
        ),
        IMAGE,
    ),
    "instance norm": (conv_then(nn.InstanceNorm2d(4, track_running_stats=True)), IMAGE),
    "slopes": (mlp_then(nn.PReLU(5), nn.PReLU()), POINTS),
    "softmax": (mlp_then(nn.Softmax(-1)), POINTS),
    "padding": (conv_then(nn.ZeroPad2d(1), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 2)), IMAGE),
    "softmax, depthwise": (
        conv_then(nn.Softmax2d(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 4, 1)),
        IMAGE,
    ),
    "padding with ones": (conv_then(nn.ConstantPad2d(1, 1.0), nn.Conv2d(4, 4, 2)), IMAGE),
    "embedding": (
        nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)),
        (3, 2),
    ),
    "nested": (nn.Sequential(nn.Sequential(nn.Linear(2, 5), nn.ELU()), nn.Linear(5, 3)), POINTS),
    "waves": (Waves(), POINTS),
    "sum": (Pooled(-1, -2, how="sum"), IMAGE),
    "maximum": (Pooled(2, 3, how="amax"), IMAGE),
}


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 and evaluation mode, with random parameters and statistics."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(generator=generator)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return module


def inputs_for(module: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    if isinstance(next(iter(module.modules()), None), nn.Sequential) and isinstance(
        module[0], nn.Embedding
    ):
        return torch.arange(6).view(shape)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def outputs(module: nn.Module, space: WeightSpace, tensors, inputs) -> torch.Tensor:
    """The output of the module with other tensors; its own are kept."""
    state = {name: x[0] for name, x in write_state(space, tensors).items()}
    with torch.no_grad():
        return torch.func.functional_call(module, state, inputs)


def networks(module: nn.Module, space: WeightSpace):
    return read_state(space, {name: x[None] for name, x in module.state_dict().items()})


@pytest.mark.parametrize("case", DESCRIBED)
def test_permuting_a_space_that_was_read_keeps_the_function(case):
    module, shape = DESCRIBED[case]
    space = WeightSpace.from_module(randomize(module))
    inputs, tensors = inputs_for(module, shape), networks(module, space)
    before = outputs(module, space, tensors, inputs)
    assert torch.allclose(before, module(inputs), atol=1e-12)
    for axis, size in space.hidden.items():
        turn = {name: torch.arange(n) for name, n in space.hidden.items()}
        turn[axis] = torch.arange(size).roll(1)
        moved = permute(space, tensors, turn)
        assert torch.allclose(outputs(module, space, moved, inputs), before, atol=1e-9)
        for i, spec in enumerate(space.tensors):  # each tensor that carries the axis must move
            if axis in spec.hidden:
                wrong = [*moved[:i], tensors[i], *moved[i + 1 :]]
                difference = outputs(module, space, wrong, inputs) - before
                assert difference.abs().max() > 1e-6, f"{spec.name} need not move"


def positively_homogeneous(module: nn.Module) -> bool:
    bad = (nn.GELU, nn.ELU, nn.Tanh, nn.Softmax, Siren)
    return not any(isinstance(one, bad) for one in module.modules())


@pytest.mark.parametrize(
    "case", [case for case, (module, _) in DESCRIBED.items() if positively_homogeneous(module)]
)
def test_scaling_units_of_a_space_that_was_read_keeps_the_function_or_is_refused(case):
    module, shape = DESCRIBED[case]
    space = WeightSpace.from_module(randomize(module))
    inputs, tensors = inputs_for(module, shape), networks(module, space)
    scales = random_scales(space, 1, torch.Generator().manual_seed(0), 3.0)
    unscalable = "layer norm of rows", "instance norm", "rms norm", "softmax, depthwise"
    if case in (*unscalable, "padding with ones"):
        with pytest.raises(ValueError, match="must be 'out' of one tensor and 'in' of another"):
            scale_units(space, tensors, scales)
        return
    scaled = scale_units(space, tensors, scales)
    assert not all(torch.allclose(x, y) for x, y in zip(scaled, tensors, strict=True))
    before = outputs(module, space, tensors, inputs)
    assert torch.allclose(outputs(module, space, scaled, inputs), before, atol=1e-9)


@pytest.mark.parametrize("case", ["lenet by view", "flatten and batch norm", "batch norm"])
def test_models_take_the_state_dicts_of_modules(case, tmp_path):
    """Also with flattened weights and batch norm counters; a module loads an editor's output."""
    module, shape = DESCRIBED[case]
    space = WeightSpace.from_module(randomize(module))
    state = {name: x[None].repeat(3, *[1] * x.ndim) for name, x in module.state_dict().items()}
    model = DWSNetClassifier(space, 2, channels=4, num_layers=1, head_width=4).double()
    assert model(state).shape == (3, 2)
    model.save_pretrained(tmp_path)
    assert DWSNetClassifier.from_pretrained(tmp_path).read.space == space
    edited = DWSNetEditor(space, 4, 1, init_scale=0.0).double().eval()(state)
    module.load_state_dict({name: x[0] for name, x in edited.items()}, strict=False)
    inputs = inputs_for(module, shape)
    tensors = read_state(space, edited)
    assert torch.allclose(
        outputs(module, space, [x[:1] for x in tensors], inputs), module(inputs), atol=1e-12
    )


def test_an_editor_widens_a_lenet():
    module, shape = DESCRIBED["lenet by view"]
    space, wide = WeightSpace.from_module(randomize(module)), LeNet("view")
    state = {name: x[None] for name, x in module.state_dict().items()}
    wide.conv1, wide.conv2, wide.norm = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 2), nn.BatchNorm2d(8)
    wide.fc1, wide.fc2, wide.fc3 = nn.Linear(48, 10), nn.Linear(10, 8), nn.Linear(8, 2)
    wide.double().eval()
    edited = DWSNetEditor(space, 4, 1, expansion=2, init_scale=0.0).double().eval()(state)
    wide.load_state_dict({name: x[0] for name, x in edited.items()}, strict=False)
    inputs = inputs_for(module, shape)
    assert torch.allclose(wide(inputs), module(inputs), atol=1e-9)


def test_what_is_flattened_is_declared():
    space = WeightSpace.from_module(LeNet("view"))
    fc1 = next(spec for spec in space.tensors if spec.name == "fc1.weight")
    assert (fc1.shape, fc1.stored_shape) == ((5, 4, 6), (5, 24))
    assert [axis.hidden for axis in fc1.axes] == [True, True, False]
    assert space_from_json(space_as_json(space)) == space


def test_a_state_dict_gives_the_same_space_as_its_module():
    line = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 5, 2))
    for module in (classifier(), Siren(skip=False), line):
        assert WeightSpace.from_state_dict(module.state_dict()) == WeightSpace.from_module(module)


def test_named_constructors_are_chains_too():
    module = nn.Module()
    module.layers = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3))
    assert WeightSpace.from_state_dict(module.state_dict()) == WeightSpace.mlp((2, 4, 3))
    module.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5, 10))
    assert WeightSpace.from_state_dict(module.state_dict()) == WeightSpace.cnn(1, (4, 5), 3, 10)


def test_an_average_over_the_picture_may_be_a_mean():
    assert (
        WeightSpace.from_module(Pooled(-1, -2)).hidden
        == WeightSpace.from_module(Pooled(2, 3)).hidden
        == {"layer1": 4}
    )


class Odd(nn.Module):
    """An MLP with something between its layers."""

    def __init__(self, between):
        super().__init__()
        self.first, self.last, self.between = nn.Linear(3, 4), nn.Linear(4, 3), between
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.last(self.between(self, self.first(x)))


def hooked() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
    module[0].register_forward_hook(lambda *_: None)
    return module


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    module[2].weight = module[0].weight
    return module


def shared_memory() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    module[2].weight.data = module[0].weight.data
    return module


def pruned() -> nn.Module:
    """An MLP whose first layer says that it has five neurons, but has four."""
    module = mlp_then(nn.ReLU())
    module[0].weight, module[0].bias = nn.Parameter(torch.ones(4, 2)), nn.Parameter(torch.ones(4))
    module[2].weight = nn.Parameter(torch.ones(4, 4))
    return module


conv, fc = nn.Conv2d, nn.Linear
REFUSED = {
    "linear on the width": (
        nn.Sequential(conv(1, 4, 3), fc(6, 4)),
        "'1' must take the neurons .* dimension -1 and they .layer1. are elsewhere",
    ),
    "linear on the width, as wide as channels": (
        nn.Sequential(conv(1, 4, 3), fc(4, 4)),
        "are elsewhere",
    ),
    "linear after pooling": (
        nn.Sequential(conv(1, 4, 3), nn.AdaptiveAvgPool2d(1), fc(1, 4)),
        "are elsewhere",
    ),
    "convolution of a linear layer": (
        nn.Sequential(fc(4, 4), conv(4, 4, 1)),
        "'1' must take a batch of channels with 2 dimensions of positions, found neurons of "
        ".*layer1",
    ),
    "another rank": (
        nn.Sequential(conv(1, 4, 3), nn.Conv1d(4, 4, 1)),
        "'1' must take a batch of channels with 1 dim",
    ),
    "groups": (nn.Sequential(conv(2, 4, 3, groups=2), conv(4, 1, 3)), "'0' must have groups=1"),
    "depthwise with two outputs each": (
        nn.Sequential(conv(1, 4, 3), conv(4, 8, 3, groups=4), conv(8, 1, 1)),
        "'1' must have groups=1",
    ),
    "groups of a norm": (conv_then(nn.GroupNorm(2, 4)), "must have one group.* found 2"),
    "batch norm of pictures on rows": (mlp_then(nn.BatchNorm2d(5)), "must be for .*BatchNorm2d"),
    "batch norm of words": (
        nn.Sequential(nn.Embedding(5, 4), nn.BatchNorm1d(4), fc(4, 2)),
        "channels after the batch",
    ),
    "pooling of neurons": (
        nn.Sequential(fc(4, 8), nn.MaxPool1d(2), fc(4, 2)),
        "must pool, pad or resize positions, 1 dimensions after",
    ),
    "pooling of channels": (
        nn.Sequential(nn.Conv1d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), fc(4, 2)),
        "must pool, pad or resize positions, 2 dimensions after",
    ),
    "flatten of positions alone": (
        nn.Sequential(conv(1, 4, 3), nn.Flatten(2), fc(36, 2)),
        "are elsewhere",
    ),
    "flatten with the batch": (
        nn.Sequential(conv(1, 4, 3), nn.Flatten(0), fc(36, 2)),
        "cannot tell what dimension 0",
    ),
    "flatten of other widths": (
        nn.Sequential(conv(1, 4, 3), nn.Flatten(), fc(35, 2)),
        "'2' must take the 4 outputs of the layer before, found 35 inputs",
    ),
    "rows of unknown parts": (LeNet("rows"), "cannot describe view"),
    "rows of a parameter's size": (LeNet("parameter"), "cannot describe view"),
    "convolution of flattened rows": (
        nn.Sequential(conv(1, 4, 3), nn.Flatten(1, 2), nn.Conv1d(24, 3, 1)),
        "'2' must take channels",
    ),
    "norm of flattened rows": (
        nn.Sequential(conv(1, 4, 3), nn.Flatten(1, 2), nn.LayerNorm((24, 6))),
        "must be over the last dimension",
    ),
    "instance norm of rows": (mlp_then(nn.InstanceNorm1d(5)), "must be for .*InstanceNorm1d"),
    "mean of channels": (
        Pooled(1, 2),
        r"'mean' must be over positions, not over neurons, found dims \[1, 2\]",
    ),
    "chunks": (Odd(lambda _, x: x.chunk(2)), "cannot describe chunk"),
    "gated": (nn.Sequential(fc(2, 4), nn.GLU(), fc(2, 2)), "'1' .* cannot describe GLU"),
    "shuffled": (conv_then(nn.ChannelShuffle(2)), "cannot describe ChannelShuffle"),
    "local response": (conv_then(nn.LocalResponseNorm(2)), "cannot describe LocalResponseNorm"),
    "attention": (nn.Sequential(nn.MultiheadAttention(4, 2)), "MultiheadAttention"),
    "recurrent": (nn.Sequential(nn.LSTM(4, 2)), "cannot describe LSTM"),
    "transformer": (nn.Sequential(nn.TransformerEncoderLayer(4, 2)), "TransformerEncoderLayer"),
    "lazy": (nn.Sequential(nn.LazyLinear(4), fc(4, 2)), "'0' must be called once"),
    "weight norm": (
        nn.Sequential(parametrizations.weight_norm(fc(2, 4)), fc(4, 2)),
        "cannot describe ParametrizedLinear",
    ),
    "hooks": (hooked(), "'0' must have no forward hooks"),
    "skip": (Siren(skip=True), "skip, a branch"),
    "a parameter of its own": (Odd(lambda own, x: x * own.gain), "'mul' must have one input"),
    "factors of its size, one for each neuron": (
        Odd(lambda own, x: x * torch.arange(x.shape[-1])),
        "'mul' must have one input, found .*'arange'",
    ),
    "other shapes": (pruned(), r"'0.weight' must have shape \(5, 2\) as its layer says, found"),
    "a parameter not used": (Odd(lambda own, x: x), "found 'gain', which does not"),
    "slices": (Odd(lambda own, x: x[:, :2]), "'getitem' .* cannot describe getitem"),
    "control flow": (Odd(lambda own, x: x if x.sum() > 0 else -x), "cannot be traced"),
    "its own error": (Odd(lambda own, x: own.missing), "cannot be traced: 'Odd' object has no"),
    "tied": (tied(), "must be independent, found '0.weight' and '2.weight' tied"),
    "shared memory": (shared_memory(), "'0.weight' and '2.weight' tied"),
    "one layer": (nn.Sequential(fc(2, 4)), "at least two layers"),
    "one bare layer": (fc(2, 4), "found 'bias', which does not"),
    "no layer": (nn.Sequential(nn.ReLU()), "at least two layers"),
    "twice": (nn.Sequential(*[fc(3, 3)] * 2), "more than once"),
    "two outputs": (Odd(lambda own, x: torch.cat([x, own.first(x)])), "one use"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_described_is_refused_in_one_sentence(case):
    module, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        WeightSpace.from_module(module)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unchecked")
def test_no_module_is_refused():
    with pytest.raises(ValueError, match=r"must be a torch.nn.Module, found a dict"):
        WeightSpace.from_module({})


def test_a_state_dict_with_a_norm_is_refused():
    state = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).state_dict()
    with pytest.raises(ValueError, match=r"'1.weight'.*\(4,\)"):
        WeightSpace.from_state_dict(state)
