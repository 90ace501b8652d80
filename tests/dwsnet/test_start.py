"""Untrained layers and models have unit scale for every pooling, width, depth and space."""

import pytest
import torch
from torch.nn import functional as F

from dwsnet import (
    Axis,
    DownsampledLinear,
    DWSNet,
    DWSNetClassifier,
    EquivariantAttention,
    EquivariantLinear,
    TensorSpec,
    WeightSpace,
)
from dwsnet.models import DEEP

pytestmark = pytest.mark.usefixtures("unchecked")

STREAM, INNER, KEYS, WORD = (
    Axis("stream", 24, True),
    Axis("inner", 40, True),
    Axis("keys", 20, True),
    Axis("word", 7, False),
)
TRANSFORMER = WeightSpace(
    tuple(
        TensorSpec(name, axes)
        for name, axes in {
            "embed": (STREAM, WORD),
            "query": (KEYS, STREAM),
            "key": (KEYS, STREAM),
            "back": (STREAM, KEYS),
            "up": (INNER, STREAM),
            "up.bias": (INNER,),
            "down": (STREAM, INNER),
            "head": (WORD, STREAM),
        }.items()
    )
)
SPACES = {
    "narrow": WeightSpace.mlp((2, 8, 8, 1)),
    "wide": WeightSpace.mlp((2, 64, 64, 1)),
    "many inputs": WeightSpace.mlp((48, 16, 10)),
    "deep": WeightSpace.mlp((2, 12, 12, 12, 12, 12, 12, 1)),
    "cnn": WeightSpace.cnn(1, (16, 24), 3, 10),
    "transformer": TRANSFORMER,
}
POOLINGS = ("mean", "sum", "max", "attention")
LAYERS = {"affine": EquivariantLinear, "attention": EquivariantAttention}


def normal(space: WeightSpace, batch: int, channels: int):
    return tuple(torch.randn(batch, *spec.shape, channels) for spec in space.tensors)


def scale(x: torch.Tensor) -> float:
    return x.square().mean().sqrt().item()


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_layers_with_relu_keep_the_scale_at_every_depth(space, pooling, build):
    torch.manual_seed(0)
    features = normal(space, 2, 8)
    with torch.no_grad():
        for depth in range(1, 13):
            layer = build(space, 8, 8, pooling=pooling)
            features = tuple(F.relu(x) for x in layer(features))
            largest = max(map(scale, features))
            assert 0.1 < largest < 10, f"{largest} after {depth} layers"


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("options", [{}, {"norm": "member", "num_heads": 2}], ids=str)
def test_a_classifier_starts_near_chance(space, pooling, options):
    torch.manual_seed(0)
    for num_layers in (DEEP - 1, 12):
        model = DWSNetClassifier(space, 10, 8, num_layers, 32, pooling=pooling, **options)
        state = {spec.name: torch.randn(6, *spec.shape) for spec in space.tensors}
        with torch.no_grad():
            loss = F.cross_entropy(model(state), torch.arange(6)).item()
        assert abs(loss - 2.303) < 1, f"{loss} of {num_layers} layers"


def test_sums_of_wide_networks_fit_into_half_precision():
    """Features of 2^18 weights with a common mean: their sum exceeds 65,504, but no feature."""
    torch.manual_seed(0)
    space = WeightSpace.mlp((2, 512, 512, 1))
    model = DWSNetClassifier(space, 10, 2, 2, 16, pooling="sum", norm="member").half()
    state = {spec.name: torch.randn(1, *spec.shape).half() for spec in space.tensors}
    with torch.no_grad():
        features = model.encoder.trunk(tuple(x.unsqueeze(-1) for x in model.read(state)))
        assert features[2].double().sum((1, 2)).max() > torch.finfo(torch.float16).max
        assert model(state).isfinite().all()


def test_a_sum_is_a_sum():
    """A layer of sums is a layer of means with weights times the numbers of neurons."""
    torch.manual_seed(0)
    space = WeightSpace.mlp((2, 5, 4, 3))
    for build in LAYERS.values():
        sums, means = (build(space, 2, 3, pooling=pooling).double() for pooling in ("sum", "mean"))
        means.load_state_dict(sums.state_dict())
        incidence = sums.incidence
        for s, weight in enumerate(means.weights):
            columns = [2 * incidence.fixed[i] for i in incidence.carriers[s]]
            entries = [
                torch.Size(incidence.sizes[incidence.own[i]]).numel()
                // torch.Size(incidence.sizes[s]).numel()
                for i in incidence.carriers[s]
            ]
            counts = torch.repeat_interleave(torch.tensor(entries), torch.tensor(columns))
            weight.data[:, : len(counts)] *= counts
            if build is EquivariantAttention and str(s) in means.attentions:
                means.attentions[str(s)].project.weight.data *= counts
        features = tuple(x.double() for x in normal(space, 3, 2))
        for one, other in zip(sums(features), means(features), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_downsampling_keeps_the_scale():
    torch.manual_seed(0)
    space = WeightSpace.mlp((60, 16, 10))
    features = normal(space, 4, 8)
    with torch.no_grad():
        for _ in range(6):
            layer = DownsampledLinear(space, "layer0", 12, 8, 8)
            features = tuple(F.relu(x) for x in layer(features))
            assert 0.1 < max(map(scale, features)) < 10


def share_between_neurons(num_layers: int, skip: bool | None) -> float:
    """The share of the variance of the second weight's features that is within members."""
    torch.manual_seed(0)
    space = WeightSpace.mlp((2, 32, 32, 1))
    with torch.no_grad():
        features = DWSNet(space, 1, 16, num_layers, skip=skip)(normal(space, 8, 1))[2]
    return (features.var((1, 2)).mean() / features.var((0, 1, 2)).mean()).item()


def test_deep_trunks_still_tell_neurons_apart():
    assert share_between_neurons(DEEP - 1, None) > 0.4
    assert share_between_neurons(24, False) < 0.1
    for num_layers in (DEEP, 12, 24):
        assert share_between_neurons(num_layers, None) > 0.7


@pytest.mark.parametrize(("num_layers", "skip"), [(DEEP - 1, False), (DEEP, True)])
def test_the_default_skip_is_written_down_and_older_folders_had_none(tmp_path, num_layers, skip):
    space = WeightSpace.mlp((2, 4, 3, 1))
    model = DWSNetClassifier(space, 2, 2, num_layers, 4)
    assert model.config["skip"] is skip
    model.save_pretrained(tmp_path)
    assert DWSNetClassifier.from_pretrained(tmp_path).encoder.trunk.skip is skip
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace(f',\n  "skip": {str(skip).lower()}', ""))
    assert "skip" not in config.read_text()
    assert DWSNetClassifier.from_pretrained(tmp_path).encoder.trunk.skip is False
