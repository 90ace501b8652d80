"""An MLP on the flat parameter vector: it knows nothing of the symmetry."""

from collections.abc import Mapping
from math import sqrt

from torch import Tensor, nn

from dwsnet.models import ReadState, flatten_state
from dwsnet.weight_space import WeightSpace


class FlatMLPClassifier(nn.Module):
    """Three layers with batch normalisation and GELU, as wide as `num_parameters` allows.

    Takes stacked state dicts `{name: (batch, *spec.shape)}`, returns logits `(batch, num_classes)`.
    """

    def __init__(self, space: WeightSpace, num_classes: int, num_parameters: int, canonical_signs: bool = False):
        super().__init__()
        self.read = ReadState(space, canonical_signs)
        width = flat_width(space.num_parameters, num_classes, num_parameters)
        self.layers = nn.Sequential(
            nn.Linear(space.num_parameters, width),
            nn.BatchNorm1d(width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.GELU(),
            nn.Linear(width, num_classes),
        )

    def forward(self, state: Mapping[str, Tensor]) -> Tensor:
        return self.layers(flatten_state(self.read(state)))


def flat_width(inputs: int, outputs: int, num_parameters: int) -> int:
    """The widest hidden layers w with w^2 + (inputs + outputs + 6) w + outputs <= num_parameters; at least 1."""
    half = (inputs + outputs + 6) / 2
    return max(1, int(sqrt(half**2 + num_parameters - outputs) - half))
