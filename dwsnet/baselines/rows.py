"""A network as a sequence of rows, one a neuron: INR2Vec's encoder and a transformer read it.

A row is all that computes one neuron, its incoming weights and its bias (of a convolution, the channel's kernel),
padded with zeros to the widest.
"""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dwsnet.baselines.width import widest
from dwsnet.models import ReadState
from dwsnet.normalize import BatchNorm1d
from dwsnet.pretrained import Pretrained
from dwsnet.state import check_tensors
from dwsnet.weight_space import WeightSpace

NUM_LAYERS, NUM_HEADS = 4, 4
"""Of the transformer."""


def row_shape(space: WeightSpace) -> tuple[int, int]:
    """Number of rows and their width."""
    layers = _layers(space)
    sizes = {axis.name: axis.size for spec in space.tensors for axis in spec.axes}
    widths = {
        axis: sum(prod(space.tensors[i].shape) for i in members) // sizes[axis]
        for axis, members in layers.items()
    }
    return sum(sizes[axis] for axis in layers), max(widths.values())


def to_rows(
    space: WeightSpace, tensors: Sequence[Float[Tensor, "batch ..."]]
) -> Float[Tensor, "batch rows width"]:
    """The rows of tensors `(batch, *spec.shape)`, layer by layer."""
    check_tensors(space, tensors, ())
    _, width = row_shape(space)
    rows = []
    for members in _layers(space).values():
        parts = []
        for i in members:
            x = tensors[i].movedim(1 + space.tensors[i].roles.index("out"), 1)
            parts.append(x.flatten(2) if x.ndim > 2 else x.unsqueeze(2))
        row = torch.cat(parts, 2)
        rows.append(F.pad(row, (0, width - row.shape[2])))
    return torch.cat(rows, 1)


def _layers(space: WeightSpace) -> dict[str, list[int]]:
    """By axis the positions of the tensors that compute it; raises ValueError where one computes none."""
    layers: dict[str, list[int]] = {}
    for i, spec in enumerate(space.tensors):
        if "out" not in (spec.roles or ()):
            raise ValueError(
                f"tensor {spec.name!r} must compute one of its axes {[axis.name for axis in spec.axes]} to be read by "
                f"rows, as with roles=('out', 'in'), found roles {spec.roles}"
            )
        layers.setdefault(spec.axes[spec.roles.index("out")].name, []).append(i)
    return layers


class INR2VecClassifier(Pretrained):
    """INR2Vec's encoder (De Luigi et al. 2023) and a linear head, as wide as `num_parameters` allows.

    One MLP with batch normalisation and ReLU for all rows, the maximum over rows, w, w, 2w, 2w wide as the original is
    512, 512, 1024, 1024. The original leaves out the first and the last layer of the INR, whose rows are of another
    width; here they are padded. Takes stacked state dicts, returns logits `(batch, num_classes)`. Not invariant: the
    order of rows does not matter, that of their entries, the neurons of the layer before, does.
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
        _, inputs = row_shape(space)
        self.layers = widest(lambda width: _Encoder(inputs, width, num_classes), num_parameters)

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch classes"]:
        return self.layers(to_rows(self.space, self.read(state)))


class _Encoder(nn.Module):
    """One MLP for all rows, the maximum over them, a linear head."""

    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__()
        modules: list[nn.Module] = []
        for size_in, size_out in ((inputs, width), (width, width), (width, 2 * width)):
            modules += [nn.Linear(size_in, size_out), BatchNorm1d(size_out), nn.ReLU()]
        self.rows = nn.Sequential(*modules, nn.Linear(2 * width, 2 * width))
        self.head = nn.Linear(2 * width, outputs)

    def forward(self, rows: Float[Tensor, "batch rows inputs"]) -> Float[Tensor, "batch outputs"]:
        encoded = self.rows(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
        return self.head(encoded.amax(1))


class TransformerClassifier(Pretrained):
    """A transformer over rows (Schuerholt et al. 2021), read out at a class token, as large as `num_parameters` allows.

    Four pre-norm layers of four heads, a learned position for each row. Takes stacked state dicts, returns logits
    `(batch, num_classes)`. Not invariant: positions tell the rows apart, and so does the order of their entries.
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
        shape = row_shape(space)
        size = widest(
            lambda n: _RowTransformer(shape, NUM_HEADS * n, 2 * NUM_HEADS * n, num_classes),
            num_parameters,
        ).size
        # Heads make the size go in steps: the feed-forward layers take up what is left.
        self.layers = widest(
            lambda width: _RowTransformer(shape, size, width, num_classes), num_parameters
        )

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch classes"]:
        return self.layers(to_rows(self.space, self.read(state)))


class _RowTransformer(nn.Module):
    """A token for each row and one for the class, for `shape = (rows, inputs)`."""

    def __init__(self, shape: tuple[int, int], size: int, feedforward: int, outputs: int):
        super().__init__()
        num_rows, inputs = shape
        self.size = size
        self.embed = nn.Linear(inputs, size)
        self.position = nn.Parameter(0.02 * torch.randn(num_rows, size))
        self.token = nn.Parameter(0.02 * torch.randn(size))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    size,
                    NUM_HEADS,
                    feedforward,
                    dropout=0.0,
                    activation="gelu",
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(NUM_LAYERS)
            )
        )
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, outputs)

    def forward(self, rows: Float[Tensor, "batch rows inputs"]) -> Float[Tensor, "batch outputs"]:
        token = self.token.expand(rows.shape[0], 1, -1)
        tokens = torch.cat([token, self.embed(rows) + self.position], 1)
        with sdpa_kernel(SDPBackend.MATH):  # the fused ones have a first derivative alone
            blocks = self.blocks(tokens)
        return self.head(self.norm(blocks[:, 0]))
