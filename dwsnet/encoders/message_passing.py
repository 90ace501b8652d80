"""Message passing among neurons, in the order of the network's computation.

A layer that is linear in the weights never sees products of the weights of successive layers, which
a network's function consists of. Here each weight is mapped once to `maps` numbers, which makes a
tensor `maps` matrices. These matrices carry the features of neurons through the network from its
inputs to its outputs, and back. A layer's message is one batched matrix product, and features of
single weights are never stored. The order is that of dynamic neural graphs; messages are products
of edge and node as in ScaleGMN (Kalogeropoulos et al. 2024).
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.encoders.encoder import Encoder, EncoderFeatures
from dwsnet.messages import Embedding, Mixer, Sweep
from dwsnet.models import ReadState
from dwsnet.neuron_graph import NeuronGraph
from dwsnet.state import check_counts
from dwsnet.tensor_spec import Axis
from dwsnet.weight_space import WeightSpace

SLOTS = 16
"""Most vectors that a fixed axis is pooled to."""
CHANNELS = 16
"""Features per entry."""


class MessagePassingEncoder(Encoder):
    """Features of neurons, carried through the network and back `rounds` times, then pooled.

    Maps stacked state dicts `{name: (batch, *spec.shape)}` to `(batch, width)`, invariant to hidden
    permutations. With `signs` it is also invariant to negating hidden units, weights and biases,
    which is the same function for odd activations. Raises ValueError for a space that `NeuronGraph`
    cannot read and, with `signs`, for one that does not say which tensor computes an axis and which
    sums over it.
    """

    def __init__(
        self,
        space: WeightSpace,
        width: int,
        channels: int,
        rounds: int,
        maps: int,
        num_frequencies: int = 4,
        signs: bool = False,
    ):
        super().__init__()
        check_counts(width=width, channels=channels, rounds=rounds, maps=maps)
        if signs:
            check_signed(space)
        self.space, self.width, self.channels, self.signs = space, width, channels, signs
        self.read, self.graph = ReadState(space, canonical_signs=False), NeuronGraph(space)
        axes, links = self.graph.axes, self.graph.links
        sizes = {axis.name: axis.size for axis in axes}
        self.start = nn.ParameterDict(
            {
                str(i): torch.randn(_places(axis), channels)
                for i, axis in enumerate(axes)
                if not (axis.hidden and signs)
            }
        )
        self.embeddings = nn.ModuleList(
            Embedding(
                edges.num_positions,
                num_frequencies,
                maps if len(edges.axes) == 2 else channels,
                signs,
            )
            for edges in self.graph.edges
        )
        self.forwards, self.backwards = (
            nn.ModuleList(
                nn.ModuleList(
                    Sweep(sizes[edges.axes[one]], sizes[edges.axes[other]], channels, maps, signs)
                    for edges in links
                )
                for _ in range(rounds)
            )
            for one, other in ((1, 0), (0, 1))
        )
        self.slots = nn.ModuleList(
            nn.Identity()
            if axis.hidden
            else nn.Linear(axis.size, min(axis.size, SLOTS), bias=False)
            for axis in axes
        )
        vectors = sum(2 if axis.hidden else min(axis.size, SLOTS) for axis in axes)
        self.pool = nn.Sequential(
            nn.LayerNorm(vectors * channels), nn.Linear(vectors * channels, width)
        )

    def calibrate(
        self, statistics: Mapping[str, Mapping[str, float]], state: Mapping[str, Tensor]
    ) -> "MessagePassingEncoder":
        """Standardise; with `signs`, divide by the root mean square instead, without centring."""
        if self.signs:
            statistics = {
                name: {"mean": 0.0, "std": math.hypot(known["mean"], known["std"])}
                for name, known in statistics.items()
            }
        self.read.standardize.set(statistics)
        return self

    def features(self) -> nn.Module:
        return MessagePassingFeatures(self)

    def nodes(
        self, tensors: Sequence[Float[Tensor, "batch ..."]]
    ) -> dict[str, Float[Tensor, "batch size channels"]]:
        """Features of each axis's nodes after all rounds, from standardised tensors."""
        graph, joined, nodes = self.graph, [], {}
        for i, axis in enumerate(graph.axes):
            shape = len(tensors[0]), axis.size, self.channels
            known = str(i) in self.start
            nodes[axis.name] = (
                self.start[str(i)].expand(shape) if known else tensors[0].new_zeros(shape)
            )
        for edges, embed in zip(graph.edges, self.embeddings, strict=True):
            values = embed(edges.of(tensors[edges.tensor]))  # (batch, nodes..., maps or channels)
            if len(edges.axes) == 2:
                joined.append((*edges.axes, values))
            else:
                nodes[edges.axes[0]] = nodes[edges.axes[0]] + values
        there = [
            (before, after, sweep.edges(values))
            for (after, before, values), sweep in zip(joined, self.forwards[0], strict=True)
        ]
        back = [
            (after, before, sweep.edges(values.transpose(1, 2)))
            for (after, before, values), sweep in zip(joined, self.backwards[0], strict=True)
        ]
        for forwards, backwards in zip(self.forwards, self.backwards, strict=True):
            sweeps = [*forwards, *reversed(backwards)]
            for sweep, (sender, receiver, edges) in zip(
                sweeps, [*there, *reversed(back)], strict=True
            ):
                nodes[receiver] = sweep(edges, nodes[sender], nodes[receiver])
        return nodes

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch width"]:
        nodes, parts = self.nodes(self.read(state)), []
        for axis, slots in zip(self.graph.axes, self.slots, strict=True):
            x = nodes[axis.name]
            if axis.hidden:
                x = x.abs() if self.signs else x
                parts += [x.mean(1), x.amax(1)]
            else:
                parts.append(slots(x.transpose(1, 2)).flatten(1))  # (batch, channels * slots)
        return self.pool(torch.cat(parts, 1))


def _places(axis: Axis) -> int:
    """Nodes of a fixed axis have separate initial features, neurons share them."""
    return 1 if axis.hidden else axis.size


def check_signed(space: WeightSpace):
    """Raise ValueError unless it is known how each tensor changes with signs of hidden units."""
    space.check_roles()
    for spec in space.tensors:
        if unsigned := [name for name in spec.hidden if spec.role(name) == "none"]:
            raise ValueError(
                f"tensor {spec.name!r} must compute its hidden axes or sum over them for units to "
                f"have signs, found role 'none' of {unsigned}"
            )


class MessagePassingFeatures(EncoderFeatures):
    """Equivariant features of each entry, from its value and the nodes that it connects."""

    def __init__(self, encoder: MessagePassingEncoder):
        super().__init__(encoder, CHANNELS)
        self.is_odd = encoder.signs
        edges, channels = encoder.graph.edges, self.channels
        self.own = nn.ModuleList(
            nn.Linear(embedding.linear.in_features // one.num_positions, channels, bias=False)
            for one, embedding in zip(edges, encoder.embeddings, strict=True)
        )
        self.ends = nn.ModuleList(
            nn.ModuleList(
                nn.Linear(encoder.channels, one.num_positions * channels, bias=False)
                for _ in one.axes
            )
            for one in edges
        )
        self.mixers = nn.ModuleList(
            Mixer((2 if encoder.signs else 1 + len(one.axes)) * channels, channels, encoder.signs)
            for one in edges
        )

    def forward(
        self, state: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "batch ... channels"], ...]:
        tensors, encoder = self.read(state), self.encoder
        nodes, features = encoder.nodes(tensors), []
        for edges, embedding, own, ends, mixer in zip(
            encoder.graph.edges, encoder.embeddings, self.own, self.ends, self.mixers, strict=True
        ):
            values = edges.of(tensors[edges.tensor])
            x = own(embedding.waves(values))  # (batch, nodes..., positions, channels)
            parts = [
                end(nodes[axis]).unflatten(-1, (edges.num_positions, self.channels))
                for axis, end in zip(edges.axes, ends, strict=True)
            ]
            if len(parts) == 2:
                after, before = parts[0].unsqueeze(2), parts[1].unsqueeze(1)
                parts = [after * before] if self.is_odd else [after * before, after + before]
            found = mixer(torch.cat([x, *parts], -1))
            features.append(edges.back(found, self.space.tensors[edges.tensor]))
        return tuple(features)
