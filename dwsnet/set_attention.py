"""The attention layer: neurons of a hidden layer attend to each other, beside the affine map.

The paper's headline configuration replaces the set layer of every pair of tensors that share a
hidden axis by a set attention block (Lee et al. 2019). Here there is one attention for each hidden
axis: a token is a neuron, with the features of all tensors that carry the axis concatenated, so
queries of one tensor meet keys of another, and the output matrix maps all heads to all tensors.
Differences from the official layer: heads are shared by all pairs of the axis (there each pair has
its own eight); scores are divided by the root of the head's width, not of the whole width; the
affine map is kept beside the attention, so the layer can still express every equivariant affine
map; there is no ReLU between the two.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.autocast import cast, no_autocast
from dwsnet.derivatives import differentiable_again, is_transformed
from dwsnet.equivariant_map import apply_scatter, gather
from dwsnet.incidence import Incidence
from dwsnet.linear import AxisSetLayer
from dwsnet.pooling import PooledLinear, pooling_of
from dwsnet.state import check_counts, check_features
from dwsnet.weight_space import WeightSpace


class NeuronAttention(nn.Module):
    """Multi-head self-attention over the neurons of one hidden layer.

    Maps `(batch, neurons, in)` to `(batch, neurons, heads)`, with all heads concatenated. `project`
    maps the neurons' features to queries, keys and values of all heads,
    `(batch, neurons, columns)`.
    """

    def __init__(self, project: nn.Linear, num_heads: int):
        super().__init__()
        self.num_heads, self.project = num_heads, project
        self.reset_parameters()

    def reset_parameters(self):
        """Initialise like `nn.Linear`, but values at unit scale.

        The uniform weights of `nn.Linear` have a third of that variance.
        """
        self.project.reset_parameters()
        with torch.no_grad():
            self.project.weight[-self.project.out_features // 3 :] *= 3**0.5

    def forward(
        self, x: Float[Tensor, "batch neurons inputs"]
    ) -> Float[Tensor, "batch neurons heads"]:
        query, key, value = (  # each (batch, heads, neurons, head_width)
            self.project(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        )
        return attend(query, key, value, query.shape[-1]).transpose(1, 2).flatten(2)


def attend(query: Tensor, key: Tensor, value: Tensor, width: int) -> Tensor:
    """softmax(q k' / sqrt(width)) v with all derivatives; PyTorch's own has only the first."""
    inputs, plain = (query, key, value), partial(plain_attention, width)
    if is_transformed():
        return plain(*inputs)[0]
    output = F.scaled_dot_product_attention(*inputs, scale=width**-0.5)
    return differentiable_again(output, plain, inputs)


def plain_attention(width: int, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor]:
    scores = (query * width**-0.5) @ key.transpose(-1, -2)
    return (scores.softmax(-1) @ value,)


class EquivariantAttention(AxisSetLayer):
    """`EquivariantLinear` with attention among the neurons of each hidden axis.

    Takes and returns a tuple of `(batch, *spec.shape, channels)`; commutes with hidden
    permutations. `pooling` and `diagonal` are those of `EquivariantLinear`.
    """

    def __init__(
        self,
        space: WeightSpace,
        in_channels: int,
        out_channels: int,
        num_heads: int = 4,
        head_width: int = 16,
        pooling: str = "mean",
        diagonal: bool = False,
    ):
        super().__init__()
        check_counts(
            in_channels=in_channels,
            out_channels=out_channels,
            num_heads=num_heads,
            head_width=head_width,
        )
        self.space, self.in_channels, self.out_channels = space, in_channels, out_channels
        self.pooling = pooling
        self.incidence = Incidence(space)
        self.pool = pooling_of(pooling, self.incidence, in_channels)
        self.attentions, self.weights = nn.ModuleDict(), nn.ParameterList()
        for s, axes in enumerate(self.incidence.axis_sets):
            inputs, outputs = (
                sum(self.incidence.widths(s, channels)) for channels in (in_channels, out_channels)
            )
            if len(axes) == 1:
                width = num_heads * head_width
                project = PooledLinear(self.incidence, in_channels, s, 3 * width, pooling)
                self.attentions[str(s)] = NeuronAttention(project, num_heads)
                inputs += width
            self.weights.append(torch.empty(outputs, inputs))
        self.biases = nn.ParameterList(
            torch.empty(spec.num_fixed * out_channels) for spec in space.tensors
        )
        self.join(diagonal)
        self.reset_parameters()

    def forward(
        self, features: Sequence[Float[Tensor, "batch ... {self.in_channels}"]]
    ) -> tuple[Float[Tensor, "batch ... {self.out_channels}"], ...]:
        check_features(self.space, features, self.in_channels, self.weights[0])
        gathered = list(
            gather(self.incidence, self.pool, self.in_channels, self.incidence.fold(features))
        )
        for s, attention in self.attentions.items():
            tokens = gathered[int(s)]
            gathered[int(s)] = torch.cat([tokens, attention(tokens).to(tokens.dtype)], -1)
        inputs, parameters = cast(gathered, self.tensors())
        with no_autocast(features[0].device.type):
            outputs = apply_scatter(self.incidence, self.out_channels, *inputs, *parameters)
        return self.incidence.unfold(outputs)
