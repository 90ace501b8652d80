"""Every layer on a GPU, in float64."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from itertools import product

import torch
from torch import Tensor, nn

from dwsnet import EquivariantAttention, EquivariantLinear, InvariantLinear, WeightSpace
from dwsnet.testing import equivariance_error, random_features
from tests.gpu.row import GPU, Row, bounded

SPACES = {"2-5-3-4": WeightSpace.mlp((2, 5, 3, 4)), "3-7-2": WeightSpace.mlp((3, 7, 2))}
POOLINGS = ("mean", "sum", "max", "attention")


def equivariant_layers() -> Iterator[Row]:
    """Every layer in float64: equivariant on the GPU, and the same map as on the CPU."""
    builds = {
        f"linear, {pooling}": lambda space, p=pooling: EquivariantLinear(space, 3, 4, p)
        for pooling in POOLINGS
    }
    builds["attention"] = lambda space: EquivariantAttention(space, 3, 4, 2)
    for (net, space), (name, build) in product(SPACES.items(), builds.items()):
        layer = build(space).double()
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        there = deepcopy(layer).to(GPU)

        def on_gpu(features: Iterable[Tensor], there: nn.Module = there) -> tuple[Tensor, ...]:
            return tuple(y.cpu() for y in there(tuple(x.to(GPU) for x in features)))

        features = random_features(space, 3, 3, torch.Generator().manual_seed(0))
        both = zip(layer(features), on_gpu(features), strict=True)
        apart = max((a - b).abs().max().item() for a, b in both)
        error = apart + equivariance_error(space, on_gpu, 3)
        yield bounded(f"layer {name}, {net}: equivariance, CPU against GPU", error, 1e-9)


def invariant_layers() -> Iterator[Row]:
    """The same map as on the CPU."""
    for (net, space), pooling in product(SPACES.items(), POOLINGS):
        layer = InvariantLinear(space, 3, 4, pooling).double()
        features = random_features(space, 3, 3, torch.Generator().manual_seed(0))
        there = deepcopy(layer).to(GPU)(tuple(x.to(GPU) for x in features)).cpu()
        error = (layer(features) - there).abs().max().item()
        yield bounded(f"layer invariant, {pooling}, {net}: CPU against GPU", error, 1e-9)
