"""MLPs on the flat parameter vector: one that knows nothing of the symmetry, one that learns it, one that undoes it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dwsnet.align import match_weights
from dwsnet.augment import permute_hidden
from dwsnet.baselines.width import widest
from dwsnet.models import ReadState, flatten_state
from dwsnet.symmetry import permute
from dwsnet.weight_space import WeightSpace


class FlatMLPClassifier(nn.Module):
    """Three layers with batch normalisation and GELU, as wide as `num_parameters` allows.

    Takes stacked state dicts `{name: (batch, *spec.shape)}`, returns logits `(batch, num_classes)`.
    """

    def __init__(self, space: WeightSpace, num_classes: int, num_parameters: int, canonical_signs: bool = False):
        super().__init__()
        self.space = space
        self.read = ReadState(space, canonical_signs)
        self.layers = widest(lambda width: _mlp(space.num_parameters, width, num_classes), num_parameters)

    def forward(self, state: Mapping[str, Tensor]) -> Tensor:
        return self.layers(flatten_state(self.order(self.read(state))))

    def order(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The tensors in the order of neurons in which the MLP sees them: as they come."""
        return tensors


class AugmentedMLPClassifier(FlatMLPClassifier):
    """The flat MLP with permutation augmentation: in training, each member's hidden neurons come in a random order.

    The order is drawn from torch's default generator, as dropout is. In evaluation it is the flat MLP.
    """

    def order(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return permute_hidden(self.space, tensors, torch.default_generator) if self.training else tensors


class AlignedMLPClassifier(FlatMLPClassifier):
    """The flat MLP on networks aligned to one reference network by weight matching (Git Re-Basin).

    Invariant to hidden permutations (but for ties), since matching is. `align_to` sets the reference, which is part of
    the state dict. The matching runs on the CPU, about a millisecond a network of two hidden layers of 32.
    """

    def __init__(self, space: WeightSpace, num_classes: int, num_parameters: int, canonical_signs: bool = False):
        super().__init__(space, num_classes, num_parameters, canonical_signs)
        for i, spec in enumerate(space.tensors):
            self.register_buffer(f"reference{i}", torch.full((1, *spec.shape), torch.nan))

    def align_to(self, state: Mapping[str, Tensor]) -> "AlignedMLPClassifier":
        """Take the first network of stacked state dicts as the reference: any one of the train split will do."""
        for i, spec in enumerate(self.space.tensors):
            self.get_buffer(f"reference{i}").copy_(state[spec.name][:1])
        return self

    def order(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        named = {spec.name: self.get_buffer(f"reference{i}") for i, spec in enumerate(self.space.tensors)}
        if any(x.isnan().any() for x in named.values()):
            raise ValueError(
                "the aligned MLP needs a reference network: call align_to with a state dict of the train split first"
            )
        return permute(self.space, tensors, match_weights(self.space, self.read(named), tensors))


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.BatchNorm1d(width),
        nn.GELU(),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.GELU(),
        nn.Linear(width, outputs),
    )
