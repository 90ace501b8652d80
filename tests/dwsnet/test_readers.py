"""A module or a state dict becomes a weight space, or one sentence says why not."""

import pytest
import torch
from torch import nn

from dwsnet import WeightSpace, permute, random_permutation


def classifier() -> nn.Sequential:
    return nn.Sequential(
        *(
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 2, bias=False),
            nn.GELU(),
            nn.Dropout(0.5),
        ),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)),
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


@pytest.mark.parametrize(
    ("module", "image"),
    [(classifier().eval(), (2, 1, 9, 9)), (Siren(skip=False), (7, 2))],
    ids=["cnn", "siren"],
)
def test_permuting_a_space_that_was_read_keeps_the_function(module, image):
    module.double()
    space = WeightSpace.from_module(module)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert [spec.name for spec in space.tensors] == list(state)
    inputs = torch.randn(image, dtype=torch.float64)
    before = module(inputs)
    tensors = tuple(tensor.unsqueeze(0) for tensor in state.values())
    moved = permute(space, tensors, random_permutation(space, torch.Generator().manual_seed(1)))
    assert not torch.equal(moved[0], tensors[0])
    module.load_state_dict(
        {name: tensor.squeeze(0) for name, tensor in zip(state, moved, strict=True)}
    )
    assert torch.allclose(module(inputs), before, atol=1e-12)


def test_a_state_dict_gives_the_same_space_as_its_module():
    for module in (classifier(), Siren(skip=False)):
        assert WeightSpace.from_state_dict(module.state_dict()) == WeightSpace.from_module(module)


def test_named_constructors_are_chains_too():
    module = nn.Module()
    module.layers = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3))
    assert WeightSpace.from_state_dict(module.state_dict()) == WeightSpace.mlp((2, 4, 3))
    module.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5, 10))
    assert WeightSpace.from_state_dict(module.state_dict()) == WeightSpace.cnn(1, (4, 5), 3, 10)


class Pooled(nn.Module):
    """A convolution averaged over some dimensions, and a head."""

    def __init__(self, *dims: int):
        super().__init__()
        self.conv, self.head, self.dims = nn.Conv2d(1, 4, 3), nn.Linear(4, 2), dims

    def forward(self, x):
        return self.head(self.conv(x).mean(self.dims))


def test_an_average_over_the_picture_may_be_a_mean():
    assert (
        WeightSpace.from_module(Pooled(-1, -2)).hidden
        == WeightSpace.from_module(Pooled(2, 3)).hidden
        == {"layer1": 4}
    )


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)),
            "'1' must be nn.Linear or nn.Conv2d.*BatchNorm1d",
        ),
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 1, 3)), "'0' must have groups=1"),
        (nn.Sequential(nn.MultiheadAttention(4, 2)), "MultiheadAttention"),
        (Siren(skip=True), "skip or a branch"),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(36, 2)),
            "'2.weight' must take the 4 outputs.*\\(2, 36\\)",
        ),
        (
            Pooled(1, 2),
            r"'mean' must average over rows and columns, dims \(2, 3\), found dims \[1, 2\]",
        ),
        (nn.Sequential(nn.Linear(2, 4)), "at least two layers"),
        (nn.Sequential(*[nn.Linear(3, 3)] * 2), "more than once|at least two"),
    ],
    ids=[
        "norm",
        "groups",
        "attention",
        "skip",
        "flatten",
        "mean of channels",
        "one layer",
        "twice",
    ],
)
def test_what_is_no_chain_is_refused_in_one_sentence(module, message):
    with pytest.raises(ValueError, match=message):
        WeightSpace.from_module(module)


def test_a_state_dict_with_a_norm_is_refused():
    state = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).state_dict()
    with pytest.raises(ValueError, match=r"'1.weight'.*\(4,\)"):
        WeightSpace.from_state_dict(state)
