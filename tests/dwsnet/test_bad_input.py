"""Any invalid input gets one sentence with the tensor and both shapes, at every entry point."""

from functools import partial

import numpy as np
import pytest
import torch

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
    Standardize,
    WeightSpace,
    augment,
    canonical,
    encoders,
    permute,
    symmetry,
)
from dwsnet.align import match_weights

pytestmark = pytest.mark.usefixtures("unchecked")

SPACE = WeightSpace.mlp((2, 5, 4, 3))
RNG, KEYS = torch.Generator(), torch.arange(6)
EYE = torch.eye(2).expand(6, 2, 2)


def state() -> dict[str, torch.Tensor]:
    return {spec.name: torch.randn(6, *spec.shape) for spec in SPACE.tensors}


def features() -> list[torch.Tensor]:
    return [torch.randn(6, *spec.shape, 3) for spec in SPACE.tensors]


NAN = torch.randn(6, 4)
NAN[2, 1] = torch.nan
SHAPES = {
    "wrong width": (
        {"layers.1.weight": torch.randn(6, 4, 7)},
        r"'layers.1.weight' must have shape \(batch, 4, 5\), found \(6, 4, 7\)",
    ),
    "transposed": (
        {"layers.1.weight": torch.randn(6, 5, 4)},
        r"'layers.1.weight'.*\(batch, 4, 5\), found \(6, 5, 4\); it looks transposed",
    ),
    "no batch": (
        {"layers.1.bias": torch.randn(4)},
        r"'layers.1.bias' must have shape \(batch, 4\), found \(4,\)",
    ),
    "other batch": (
        {"layers.1.bias": torch.randn(5, 4)},
        r"'layers.1.bias' must have 6 members.*\(5, 4\)",
    ),
    "dtype": (
        {"layers.0.bias": torch.randn(6, 5).double()},
        r"'layers.0.bias' of shape \(6, 5\).*float32.*found torch.float64",
    ),
    "integers": (
        {"layers.0.weight": torch.ones(6, 5, 2, dtype=torch.long)},
        r"'layers.0.weight'.*floating point.*int64",
    ),
    "device": (
        {"layers.0.bias": torch.empty(6, 5, device="meta")},
        r"'layers.0.bias'.*on cpu.*found torch.float32 on meta",
    ),
    "array": (
        {"layers.0.bias": np.ones((6, 5))},
        r"'layers.0.bias' of shape \(batch, 5\) must be a torch.Tensor, found a ndarray",
    ),
}
NAMES = {
    "extra": (
        {"layers.3.weight": torch.randn(6, 3, 3)},
        "found also 'layers.3.weight' of shape|found 7",
    )
}
VALUES = {
    "NaN": ({"layers.1.bias": NAN}, r"'layers.1.bias' of shape \(6, 4\) must be finite.*member 2"),
    "infinite": (
        {"layers.0.bias": torch.full((6, 5), torch.inf)},
        r"'layers.0.bias'.*must be finite.*member 0",
    ),
}
STATISTICS = {spec.name: {"mean": 0.0, "std": 1.0} for spec in SPACE.tensors}
MODELS = {
    "classifier": DWSNetClassifier(SPACE, 10, channels=4, num_layers=1, head_width=8),
    "editor": DWSNetEditor(SPACE, 4, 1),
    "flat": encoders.FlatMLPEncoder(SPACE, 8),
    "flat features": encoders.FlatMLPEncoder(SPACE, 8).features(),
    "augmented": encoders.AugmentedMLPEncoder(SPACE, 8),
    "aligned": encoders.AlignedMLPEncoder(SPACE, 8).calibrate(STATISTICS, state()),
    "reference": partial(encoders.AlignedMLPEncoder(SPACE, 8).calibrate, STATISTICS),
    "inr2vec": encoders.INR2VecEncoder(SPACE, 8),
    "row features": encoders.INR2VecEncoder(SPACE, 8).features(),
    "transformer": encoders.TransformerEncoder(SPACE, 2),
    "statistics": encoders.StatisticsEncoder(SPACE, 8),
    "probing": encoders.ProbingEncoder(SPACE, 8, 3, torch.sin),
}
ACTIONS = {
    "permute": lambda x: permute(SPACE, x, symmetry.random_permutation(SPACE, RNG)),
    "scale": lambda x: symmetry.scale_units(SPACE, x, symmetry.random_scales(SPACE, 6, RNG, 2.0)),
    "turn": lambda x: symmetry.turn_phases(
        SPACE, x, symmetry.random_permutations(SPACE, 6, RNG), 30.0
    ),
    "standardize": lambda x: Standardize(SPACE)(x),
}
FUNCTIONS = {
    "match": lambda x: match_weights(SPACE, [*state().values()], x),
    "match to": lambda x: match_weights(SPACE, x, [*state().values()]),
    "signs": lambda x: symmetry.canonical_signs(SPACE, x),
    "scales": lambda x: canonical.canonical_scales(SPACE, x),
    "phases": lambda x: canonical.canonical_phases(SPACE, x, 30.0),
    "permute hidden": lambda x: augment.permute_hidden(SPACE, x, KEYS),
    "flip": lambda x: augment.flip_signs(SPACE, x, KEYS),
    "noise": lambda x: augment.add_noise(SPACE, x, KEYS, 0.1),
    "mask": lambda x: augment.mask(SPACE, x, KEYS, 0.1),
    "move": lambda x: augment.move_picture(SPACE, x, EYE, torch.zeros(6, 2)),
    "mixup": lambda x: augment.mixup(SPACE, x, torch.eye(6), KEYS, 1.0),
}
ENTRIES = {name: (entry, SHAPES | NAMES | VALUES) for name, entry in MODELS.items()}
for functions, mistakes in ((ACTIONS, SHAPES | NAMES), (FUNCTIONS, SHAPES | NAMES | VALUES)):
    ENTRIES |= {
        name: (lambda x, f=function: f([*x.values()]), mistakes)
        for name, function in functions.items()
    }


@pytest.mark.parametrize(("entry", "mistakes"), ENTRIES.values(), ids=ENTRIES)
def test_every_entry_names_every_mistake(entry, mistakes):
    entry(state())
    empty = (
        {name: tensor[:0] for name, tensor in state().items()},
        r"'layers.0.weight' must have at least one member",
    )
    missing = {}, r"'layers.0.weight'"
    for change, message in (
        *((state() | change, message) for change, message in mistakes.values()),
        empty,
        missing,
    ):
        with pytest.raises(ValueError, match=message) as caught:
            entry(change)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", MODELS.values(), ids=MODELS)
def test_a_missing_tensor_is_named(entry):
    with pytest.raises(
        ValueError,
        match=r"must have tensor 'layers.2.bias' of shape \(batch, 3\), found \['layers.0.weight'",
    ):
        entry({name: tensor for name, tensor in state().items() if name != "layers.2.bias"})


LAYERS = {
    "linear": EquivariantLinear(SPACE, 3, 2),
    "max": EquivariantLinear(SPACE, 3, 2, "max"),
    "attention": EquivariantAttention(SPACE, 3, 2),
    "invariant": InvariantLinear(SPACE, 3, 2),
    "downsampled": DownsampledLinear(SPACE, "layer0", 1, 3, 2),
    "batch norm": BatchNorm(SPACE, 3),
    "member norm": MemberNorm(SPACE, 3),
    "trunk": DWSNet(SPACE, 3, 4, 1),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_features_of_another_space_are_named(layer):
    layer(features())
    mistakes = {
        2: (
            features()[2].transpose(1, 2),
            r"'layers.1.weight' must have shape \(batch, 4, 5, 3\), found \(6, 5, 4, 3\); it looks",
        ),
        1: (
            features()[1][..., :2],
            r"'layers.0.bias' must have shape \(batch, 5, 3\), found \(6, 5, 2\)",
        ),
        3: (
            features()[3].double(),
            r"'layers.1.bias' of shape \(6, 4, 3\) must be torch.float32.*found torch.float64",
        ),
        4: (
            features()[4][:5],
            r"'layers.2.weight' must have 6 members.*found shape \(5, 3, 4, 3\)",
        ),
        5: (features()[5].to("meta"), r"'layers.2.bias' of shape \(6, 3, 3\).*on cpu.*on meta"),
    }
    for i, (mistake, message) in mistakes.items():
        with pytest.raises(ValueError, match=message):
            layer([*features()[:i], mistake, *features()[i + 1 :]])
    with pytest.raises(ValueError, match="one tensor for each of the 6"):
        layer(features()[:-1])
    with pytest.raises(ValueError, match="at least one member"):
        layer([x[:0] for x in features()])
    with pytest.raises(
        ValueError, match=r"must be torch.float32 on cpu as the parameters are, found torch.float64"
    ):
        layer([x.double() for x in features()])


def test_networks_of_another_dtype_than_the_model_are_named_but_under_autocast():
    model = MODELS["classifier"]
    double = {name: tensor.double() for name, tensor in state().items()}
    with pytest.raises(
        ValueError, match=r"'layers.0.weight'.*must be torch.float32 on cpu.*found torch.float64"
    ):
        model(double)
    with torch.autocast("cpu", torch.bfloat16):
        assert model({name: tensor.bfloat16() for name, tensor in state().items()}).isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    {
        "axis": (
            lambda x: permute(SPACE, x, {"layer1": torch.arange(5)}),
            r"hidden axes \{'layer1': 5, 'layer2': 4\}",
        ),
        "permutation": (
            lambda x: permute(SPACE, x, {"layer1": torch.arange(5), "layer2": torch.arange(3)}),
            r"'layer2' must have shape \(4,\) or \(6, 4\), found \(3,\)",
        ),
        "scale": (
            lambda x: symmetry.scale_units(SPACE, x, {"layer7": torch.ones(5)}),
            "found \\['layer7'\\]",
        ),
        "references": (
            lambda x: match_weights(SPACE, [y[:2] for y in x], x),
            "1 or 6 reference networks, found 2",
        ),
        "linear": (
            lambda x: augment.move_picture(SPACE, x, EYE[:4], torch.zeros(6, 2)),
            r"linear must have shape \(6, 2, 2\)",
        ),
        "singular": (
            lambda x: augment.move_picture(SPACE, x, 0 * EYE, torch.zeros(6, 2)),
            "linear must be invertible",
        ),
        "shift": (
            lambda x: augment.move_picture(SPACE, x, EYE, torch.zeros(6, 3)),
            r"shift must have shape \(6, 2\).*\(6, 3\)",
        ),
        "targets": (
            lambda x: augment.mixup(SPACE, x, torch.arange(6), KEYS, 1.0),
            r"shares of the classes of 6 members.*int64 of shape \(6,\)",
        ),
        "probability": (lambda x: augment.mask(SPACE, x, KEYS, 2.0), "between 0 and 1, got 2.0"),
        "statistics": (
            lambda x: Standardize(SPACE).set({}),
            "'layers.0.weight' must be a finite mean and std",
        ),
    }.values(),
)
def test_what_goes_with_the_tensors_is_named_too(call, message):
    with pytest.raises(ValueError, match=message):
        call([*state().values()])


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_counts_are_whole_numbers_of_at_least_one(count):
    for build, name in (
        (lambda n: EquivariantLinear(SPACE, 1, n), "out_channels"),
        (lambda n: EquivariantAttention(SPACE, 1, 1, n), "num_heads"),
        (lambda n: InvariantLinear(SPACE, n, 1), "in_channels"),
        (lambda n: DownsampledLinear(SPACE, "layer0", n, 1, 1), "size"),
        (lambda n: DWSNet(SPACE, 1, 1, n), "num_layers"),
        (lambda n: DWSNetClassifier(SPACE, n, 1, 1, 1), "num_classes"),
        (lambda n: DWSNetEditor(SPACE, 1, 1, n), "expansion"),
        (lambda n: WeightSpace.mlp((2, n, 1)), "'layer1' of 'layers.0.weight'"),
    ):
        with pytest.raises(ValueError, match=name):
            build(count)


@pytest.mark.parametrize(
    "form",
    [symmetry.canonical_signs, partial(canonical.canonical_phases, omega=30.0)],
    ids=["signs", "phases"],
)
def test_canonical_forms_that_need_biases_say_so(form):
    space = WeightSpace.chain([("a", (5, 2), False), ("b", (3, 5), True)])
    with pytest.raises(ValueError, match=r"hidden axis 'layer1' must have one bias.*found \[\]"):
        form(space, [torch.randn(6, *spec.shape) for spec in space.tensors])
