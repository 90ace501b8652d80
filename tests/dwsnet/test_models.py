"""Models: invariance, saving and loading, compiling, and edited networks."""

import pickle
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from dwsnet import (
    Axis,
    DWSNetClassifier,
    DWSNetEditor,
    TensorSpec,
    WeightSpace,
    permute,
    random_permutation,
)
from dwsnet.encoders import MessagePassingEncoder
from dwsnet.heads import ValuesHead

SPACE = WeightSpace.mlp((2, 5, 4, 3))


def random_state(space: WeightSpace = SPACE, batch: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        spec.name: torch.randn(batch, *spec.shape, generator=generator, dtype=torch.float64)
        for spec in space.tensors
    }


def permuted(space: WeightSpace, state: dict[str, Tensor]) -> dict[str, Tensor]:
    moved = permute(
        space, tuple(state.values()), random_permutation(space, torch.Generator().manual_seed(1))
    )
    return dict(zip(state, moved, strict=True))


def forward(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Outputs `(batch, n, 3)` of ReLU networks of widths (2, ..., 3) at points `(n, 2)`."""
    names = sorted({name.rpartition(".")[0] for name in state})
    for name in names:
        x = x @ state[f"{name}.weight"].transpose(-1, -2) + state[f"{name}.bias"].unsqueeze(1)
        x = x if name == names[-1] else x.relu()
    return x


def classifier(**options) -> DWSNetClassifier:
    torch.manual_seed(0)
    return (
        DWSNetClassifier(SPACE, 10, channels=4, num_layers=2, head_width=8, **options)
        .double()
        .eval()
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"num_heads": 2, "pooling": "max"}, {"pooling": "attention", "norm": "member"}],
    ids=str,
)
def test_a_saved_classifier_comes_back_the_same(tmp_path, options):
    model, state = classifier(**options), random_state()
    model.read.standardize.set({spec.name: {"mean": 0.5, "std": 2.0} for spec in SPACE.tensors})
    assert torch.allclose(model(state), model(permuted(SPACE, state)), atol=1e-10)
    model.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    back = DWSNetClassifier.from_pretrained(tmp_path / "model")
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in back.state_dict().items())
    assert torch.allclose(back(state), model(state), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="must hold a DWSNetEditor, found a DWSNetClassifier"):
        DWSNetEditor.from_pretrained(tmp_path / "model")


def test_the_card_of_a_model_has_a_licence_and_code_that_loads_it(tmp_path):
    model, folder = classifier(), tmp_path / "model"
    model.save_pretrained(folder)
    card = (folder / "README.md").read_text()
    front, text = card.split("---\n", 2)[1:]
    assert {"library_name: dwsnet", "- weight-space-learning"} <= set(front.splitlines())
    assert "license: unknown" in front
    shape = " x ".join(map(str, SPACE.tensors[0].shape))
    assert f"| `{SPACE.tensors[0].name}` | {shape} |" in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(code.replace("FOLDER", str(folder)), names)
    assert torch.equal(names["model"](random_state()), model.eval()(random_state()))
    (folder / "README.md").write_text("license: mit")
    model.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "license: mit"


MODELS = {
    "editor": lambda: DWSNetEditor(SPACE, 4, 2, expansion=2, num_heads=2),
    "classifier": lambda: DWSNetClassifier(SPACE, 3, 4, 2, 8, canonical_signs=True),
}


def float_state() -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in random_state().items()}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_every_model_comes_back_from_disk_the_same(tmp_path, build):
    model = build().eval()
    model.save_pretrained(tmp_path)
    found, expected = type(model).from_pretrained(tmp_path)(float_state()), model(float_state())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_folders_from_before_encoders_and_heads_are_read(tmp_path, build):
    """Tensor names had no prefix of the encoder, and editors no learned scales."""
    model = build().eval()
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    older = {
        name.removeprefix("encoder.").removeprefix("features."): tensor
        for name, tensor in load_file(file).items()
        if name != "scale"
    }
    assert "read.standardize.mean" in older
    save_file(older, file)
    found, expected = type(model).from_pretrained(tmp_path)(float_state()), model(float_state())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_folder_that_was_changed_is_refused_in_one_sentence(tmp_path):
    config, tensors = tmp_path / "config.json", tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match=r"must hold config.json and model.safetensors"):
        DWSNetClassifier.from_pretrained(tmp_path)
    model = classifier()
    model.save_pretrained(tmp_path)
    text, content = config.read_text(), tensors.read_bytes()
    for changed, message in (
        (text[:-40], "must be a configuration as save_pretrained writes it"),
        ("{}", "must be a configuration.*KeyError"),
        (
            text.replace('"num_layers"', '"num_layer"'),
            "must have arguments of DWSNetClassifier: .*'num_layers?'",
        ),
        (
            text.replace('"num_layers": 2', '"num_layers": 0'),
            "num_layers must be an integer of at least 1, got 0",
        ),
        (
            text.replace('"channels": 4', '"channels": 5'),
            r"must have tensor '.*' of shape \(.*\), found \(.*\)",
        ),
        (
            text.replace('"num_layers": 2', '"num_layers": 3'),
            r"must have tensor 'encoder.trunk.layers.2.weights.0' of shape .* found none",
        ),
        (
            text.replace('"num_layers": 2', '"num_layers": 1'),
            r"found also 'encoder.trunk.*' of shape",
        ),
    ):
        config.write_text(changed)
        with pytest.raises(ValueError, match=message):
            DWSNetClassifier.from_pretrained(tmp_path)
    config.write_text(text)
    for changed in (content[:-9], b"", pickle.dumps({"a": 1})):
        tensors.write_bytes(changed)
        with pytest.raises(ValueError, match="must be a safetensors file, found a damaged one"):
            DWSNetClassifier.from_pretrained(tmp_path)


@pytest.mark.parametrize("expansion", [1, 2, 3])
def test_an_editor_starts_as_the_identity_of_functions(expansion):
    editor = DWSNetEditor(SPACE, 4, 2, expansion, init_scale=0.0).double().eval()
    state, points = random_state(), torch.randn(7, 2, dtype=torch.float64)
    edited = editor(state)
    assert edited["layers.1.weight"].shape == (6, 4 * expansion, 5 * expansion)
    assert torch.allclose(forward(edited, points), forward(state, points), atol=1e-10)


def test_an_editor_widens_residual_bilinear_and_convolutional_networks_alike():
    """h = a + relu(W a), out = sum over b, c of V h_b h_c, and a CNN keep their functions."""
    a, b, rgb, out = (
        Axis("a", 4, True),
        Axis("b", 3, True),
        Axis("rgb", 2, False),
        Axis("out", 2, False),
    )
    specs = {"up": (a, rgb), "inner": (b, a), "back": (a, b), "pairs": (out, a, b)}
    space = WeightSpace(
        tuple(
            TensorSpec(name, axes, ("out", "in", "in")[: len(axes)]) for name, axes in specs.items()
        )
    )

    def compute(state: dict[str, Tensor]) -> Tensor:
        x = torch.linspace(-1, 1, 2, dtype=torch.float64)
        stream = torch.einsum("nai,i->na", state["up"], x)
        inner = torch.einsum("nba,na->nb", state["inner"], stream).relu()
        stream = stream + torch.einsum("nab,nb->na", state["back"], inner)
        return torch.einsum("noab,na,nb->no", state["pairs"], stream, inner)

    editor, state = (
        DWSNetEditor(space, 4, 1, expansion=3, init_scale=0.0).double().eval(),
        random_state(space),
    )
    assert torch.allclose(compute(editor(state)), compute(state), atol=1e-9)

    cnn = WeightSpace.cnn(2, (3, 4), 3, 5)
    editor, state = (
        DWSNetEditor(cnn, 4, 1, expansion=2, init_scale=0.0).double().eval(),
        random_state(cnn),
    )

    def classify(state: dict[str, Tensor]) -> Tensor:
        w1, b1, w2, b2, w3, b3 = (x[0] for x in state.values())
        image = torch.randn(
            1, 2, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        hidden = F.conv2d(F.conv2d(image, w1, b1).relu(), w2, b2).relu()
        return hidden.mean((2, 3)) @ w3.t() + b3

    assert torch.allclose(classify(editor(state)), classify(state), atol=1e-9)


@pytest.mark.parametrize("expansion", [1, 2])
def test_editing_commutes_with_hidden_permutations(expansion):
    torch.manual_seed(0)
    editor = DWSNetEditor(SPACE, 4, 2, expansion, init_scale=1.0).double().eval()
    state, points = random_state(), torch.randn(7, 2, dtype=torch.float64)
    edited, other = editor(state), editor(permuted(SPACE, state))
    assert torch.allclose(forward(edited, points), forward(other, points), atol=1e-10)
    assert not torch.allclose(forward(edited, points), forward(state, points), atol=1e-3)
    if expansion == 1:
        assert all(
            torch.allclose(permuted(SPACE, edited)[name], other[name], atol=1e-10) for name in state
        )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("options", [{"norm": "member"}, {"num_heads": 2}], ids=str)
def test_models_compile_without_graph_breaks(options):
    model = classifier(**options)
    expected = model(random_state())
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    found = compiled(random_state())
    assert torch.allclose(found, expected, atol=1e-10)
    found.sum().backward()
    gradient = model.encoder.trunk.layers[0].weights[0].grad.clone()
    model.zero_grad()
    model(random_state()).sum().backward()
    assert torch.allclose(gradient, model.encoder.trunk.layers[0].weights[0].grad, atol=1e-10)


@pytest.mark.usefixtures("unchecked")
def test_message_passing_compiles_to_one_graph():
    torch.manual_seed(0)
    model = ValuesHead(MessagePassingEncoder(SPACE, 12, 8, 2, 3, signs=True), 4)
    state = {name: tensor.float() for name, tensor in random_state().items()}
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(state), model(state), atol=1e-5)
