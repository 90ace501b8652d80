"""Models: invariance, saving and loading, compiling, and networks that come out as networks."""

import pytest
import torch
from torch import Tensor

from dwsnet import DWSNetClassifier, DWSNetEditor, WeightSpace, permute, random_permutation

SPACE = WeightSpace.mlp((2, 5, 4, 3))


def random_state(space: WeightSpace = SPACE, batch: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {spec.name: torch.randn(batch, *spec.shape, generator=generator, dtype=torch.float64) for spec in space.tensors}


def permuted(space: WeightSpace, state: dict[str, Tensor]) -> dict[str, Tensor]:
    moved = permute(space, tuple(state.values()), random_permutation(space, torch.Generator().manual_seed(1)))
    return dict(zip(state, moved, strict=True))


def forward(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """What the networks of widths (2, ..., 3) with ReLU compute at points `(n, 2)`: `(batch, n, 3)`."""
    names = sorted({name.rpartition(".")[0] for name in state})
    for name in names:
        x = x @ state[f"{name}.weight"].transpose(-1, -2) + state[f"{name}.bias"].unsqueeze(1)
        x = x if name == names[-1] else x.relu()
    return x


def classifier(**options) -> DWSNetClassifier:
    torch.manual_seed(0)
    return DWSNetClassifier(SPACE, 10, channels=4, num_layers=2, head_width=8, **options).double().eval()


@pytest.mark.parametrize(
    "options", [{}, {"num_heads": 2, "pooling": "max"}, {"pooling": "attention", "norm": "member"}], ids=str
)
def test_a_saved_classifier_comes_back_the_same(tmp_path, options):
    model, state = classifier(**options), random_state()
    model.read.standardize.set({spec.name: {"mean": 0.5, "std": 2.0} for spec in SPACE.tensors})
    assert torch.allclose(model(state), model(permuted(SPACE, state)), atol=1e-10)
    model.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    assert torch.equal(DWSNetClassifier.from_pretrained(tmp_path / "model").double()(state), model(state))
    with pytest.raises(ValueError, match="must hold a DWSNetEditor, found a DWSNetClassifier"):
        DWSNetEditor.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("expansion", [1, 2, 3])
def test_an_editor_starts_as_the_identity_of_functions(expansion):
    editor = DWSNetEditor(SPACE, 4, 2, expansion, init_scale=0.0).double().eval()
    state, points = random_state(), torch.randn(7, 2, dtype=torch.float64)
    edited = editor(state)
    assert edited["layers.1.weight"].shape == (6, 4 * expansion, 5 * expansion)
    assert torch.allclose(forward(edited, points), forward(state, points), atol=1e-10)


@pytest.mark.parametrize("expansion", [1, 2])
def test_editing_commutes_with_hidden_permutations(expansion):
    torch.manual_seed(0)
    editor = DWSNetEditor(SPACE, 4, 2, expansion, init_scale=1.0).double().eval()
    state, points = random_state(), torch.randn(7, 2, dtype=torch.float64)
    edited, other = editor(state), editor(permuted(SPACE, state))
    assert torch.allclose(forward(edited, points), forward(other, points), atol=1e-10)
    assert not torch.allclose(forward(edited, points), forward(state, points), atol=1e-3)
    if expansion == 1:
        assert all(torch.allclose(permuted(SPACE, edited)[name], other[name], atol=1e-10) for name in state)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("num_heads", [0, 2])
def test_models_compile_without_graph_breaks(num_heads):
    model = classifier(num_heads=num_heads)
    expected = model(random_state())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = compiled(random_state())
    assert torch.allclose(found, expected, atol=1e-10)
    found.sum().backward()
    gradient = model.trunk.layers[0].weights[0].grad.clone()
    model.zero_grad()
    model(random_state()).sum().backward()
    assert torch.allclose(gradient, model.trunk.layers[0].weights[0].grad, atol=1e-10)
