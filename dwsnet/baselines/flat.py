"""MLPs on the flat parameter vector: one that knows nothing of the symmetry, one that learns it, one that undoes it."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.align import match_weights
from dwsnet.baselines.width import widest
from dwsnet.derivatives import is_transformed
from dwsnet.models import ReadState, flatten_state
from dwsnet.normalize import BatchNorm1d
from dwsnet.pretrained import Pretrained
from dwsnet.state import read_state
from dwsnet.symmetry import permute
from dwsnet.weight_space import WeightSpace


class FlatMLPClassifier(Pretrained):
    """Three layers with batch normalisation and GELU, as wide as `num_parameters` allows.

    Takes stacked state dicts `{name: (batch, *spec.shape)}`, returns logits `(batch, num_classes)`.
    """

    def __init__(
        self,
        space: WeightSpace,
        num_classes: int,
        num_parameters: int,
        canonical_signs: bool = False,
    ):
        super().__init__()
        self.config = {
            "num_classes": num_classes,
            "num_parameters": num_parameters,
            "canonical_signs": canonical_signs,
        }
        self.space = space
        self.read = ReadState(space, canonical_signs)
        self.layers = widest(
            lambda width: _mlp(space.num_parameters, width, num_classes), num_parameters
        )

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch classes"]:
        return self.layers(flatten_state(self.order(self.read(state))))

    def order(
        self, tensors: tuple[Float[Tensor, "batch ..."], ...]
    ) -> tuple[Float[Tensor, "batch ..."], ...]:
        """The tensors in the order of neurons in which the MLP sees them: as they come."""
        return tensors


class AugmentedMLPClassifier(FlatMLPClassifier):
    """The flat MLP with permutation augmentation: in training, each member's hidden neurons come in a random order.

    The order is drawn from torch's default generator of the device, as dropout is. In evaluation it is the flat MLP.
    """

    def order(
        self, tensors: tuple[Float[Tensor, "batch ..."], ...]
    ) -> tuple[Float[Tensor, "batch ..."], ...]:
        if not self.training:
            return tensors
        batch, device = tensors[0].shape[0], tensors[0].device
        permutation = {
            name: torch.rand(batch, size, device=device).argsort(1)
            for name, size in self.space.hidden.items()
        }
        return permute(self.space, tensors, permutation)


class AlignedMLPClassifier(FlatMLPClassifier):
    """The flat MLP on networks aligned to one reference network by weight matching (Git Re-Basin).

    Invariant to hidden permutations (but for ties), since matching is. `align_to` sets the reference, which is part of
    the state dict. The matching runs on the CPU, about a millisecond a network of two hidden layers of 32, and breaks the
    graph under torch.compile.
    """

    def __init__(
        self,
        space: WeightSpace,
        num_classes: int,
        num_parameters: int,
        canonical_signs: bool = False,
    ):
        super().__init__(space, num_classes, num_parameters, canonical_signs)
        for i, spec in enumerate(space.tensors):
            self.register_buffer(f"reference{i}", torch.full((1, *spec.shape), torch.nan))

    def align_to(self, state: Mapping[str, Tensor]) -> "AlignedMLPClassifier":
        """Take the first network of stacked state dicts as the reference: any one of the train split will do."""
        for i, tensor in enumerate(read_state(self.space, state)):
            self.get_buffer(f"reference{i}").copy_(tensor[:1])
        return self

    def order(
        self, tensors: tuple[Float[Tensor, "batch ..."], ...]
    ) -> tuple[Float[Tensor, "batch ..."], ...]:
        named = {
            spec.name: self.get_buffer(f"reference{i}") for i, spec in enumerate(self.space.tensors)
        }
        if not is_transformed() and any(x.isnan().any() for x in named.values()):
            raise ValueError(
                "the aligned MLP needs a reference network: call align_to with a state dict of the train split first"
            )
        return permute(self.space, tensors, match_weights(self.space, self.read(named), tensors))


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        BatchNorm1d(width),
        nn.GELU(),
        nn.Linear(width, width),
        BatchNorm1d(width),
        nn.GELU(),
        nn.Linear(width, outputs),
    )
