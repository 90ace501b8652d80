"""Networks whose input is the parameters of other networks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.linear import EquivariantLinear, InvariantLinear
from dwsnet.normalize import BatchNorm, Standardize
from dwsnet.state import read_state
from dwsnet.symmetry import canonical_signs
from dwsnet.weight_space import WeightSpace


class ReadState(nn.Module):
    """Stacked state dicts to standardised tensors `(batch, *spec.shape)`, signs made canonical first where asked for."""

    def __init__(self, space: WeightSpace, canonical_signs: bool):
        super().__init__()
        self.space, self.canonical_signs = space, canonical_signs
        self.standardize = Standardize(space)

    def forward(self, state: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        tensors = read_state(self.space, state)
        return self.standardize(canonical_signs(self.space, tensors) if self.canonical_signs else tensors)


class DWSNet(nn.Module):
    """The equivariant trunk: affine layers with batch normalisation and GELU between them.

    Takes and returns features over `space`: a tuple of `(batch, *spec.shape, channels)`.
    """

    def __init__(self, space: WeightSpace, in_channels: int, channels: int, num_layers: int):
        super().__init__()
        inputs = [in_channels] + [channels] * (num_layers - 1)
        self.layers = nn.ModuleList(EquivariantLinear(space, size, channels) for size in inputs)
        self.norms = nn.ModuleList(BatchNorm(space, channels) for _ in inputs)

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            features = tuple(F.gelu(x) for x in norm(layer(features)))
        return features


class DWSNetClassifier(nn.Module):
    """Classifies networks: standardise, equivariant trunk, invariant layer, one hidden layer.

    Takes stacked state dicts `{name: (batch, *spec.shape)}`, returns logits `(batch, num_classes)`; permuting hidden
    neurons leaves them as they are.
    """

    def __init__(
        self,
        space: WeightSpace,
        num_classes: int,
        channels: int,
        num_layers: int,
        head_width: int,
        dropout: float = 0.0,
        canonical_signs: bool = False,
    ):
        super().__init__()
        self.read = ReadState(space, canonical_signs)
        self.trunk = DWSNet(space, 1, channels, num_layers)
        self.invariant = InvariantLinear(space, channels, head_width)
        self.head = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(head_width, num_classes))

    def forward(self, state: Mapping[str, Tensor]) -> Tensor:
        features = tuple(x.unsqueeze(-1) for x in self.read(state))
        return self.head(self.invariant(self.trunk(features)))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def flatten_state(tensors: tuple[Tensor, ...]) -> Tensor:
    """`(batch, parameters)`: all entries of each member in one row."""
    return torch.cat([x.flatten(1) for x in tensors], 1)
