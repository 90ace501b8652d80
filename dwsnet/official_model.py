"""Networks of the official DWSNets code (github.com/AvivNavon/DWSNets), on features of dwsnet.

The official layer is 4M^2 small modules, one for each pair of tensors. Each is a sum of terms: the
source, pooled to some of the hidden axes that it shares with the target, is mapped and repeated
along the target's other axes. The linear terms become an `EquivariantLinear` with the same pooling;
the others (set attention, blocks with more than one linear map) stay separate.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.incidence import Folding
from dwsnet.linear import EquivariantLinear
from dwsnet.set_attention import attend
from dwsnet.weight_space import WeightSpace

POOLINGS: dict[str, Callable[..., Any]] = {"max": torch.amax, "mean": torch.mean, "sum": torch.sum}


class SetAttention(nn.Module):
    """The official SAB, self-attention from `(batch, set, inputs)` to `(batch, set, outputs)`.

    As in the official code, a head is `outputs // num_heads` wide, and there are as many as fit;
    scores are divided by the root of the whole width, and queries are added to the attention
    output. Raises ValueError if heads do not fit.
    """

    def __init__(self, inputs: int, outputs: int, num_heads: int):
        super().__init__()
        self.head_width = outputs // num_heads
        if self.head_width == 0 or outputs % self.head_width:
            raise ValueError(
                f"num_heads must split {outputs} features into heads of equal width, got "
                f"{num_heads}"
            )
        self.fc_q, self.fc_k, self.fc_v = (nn.Linear(inputs, outputs) for _ in range(3))
        self.fc_o = nn.Linear(outputs, outputs)

    def forward(self, x: Float[Tensor, "batch set inputs"]) -> Float[Tensor, "batch set outputs"]:
        query, key, value = (  # each (batch, heads, set, head_width)
            linear(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for linear in (self.fc_q, self.fc_k, self.fc_v)
        )
        heads = query + attend(query, key, value, self.fc_o.in_features)
        joined = heads.transpose(1, 2).flatten(2)  # (batch, set, outputs)
        return joined + F.relu(self.fc_o(joined))


def mlp(inputs: int, outputs: int, num_maps: int, bias: bool) -> nn.Sequential:
    """Linear maps with ReLU between; all but the first are square."""
    layers: list[nn.Module] = [nn.Linear(inputs, outputs, bias)]
    for _ in range(num_maps - 1):
        layers += [nn.ReLU(), nn.Linear(outputs, outputs, bias)]
    return nn.Sequential(*layers)


class Map(NamedTuple):
    """One map of an official layer."""

    source: int
    """Index of the tensor in the space, as for the target."""
    target: int
    role: str
    kept: tuple[str, ...]
    """Hidden axes that the source is not pooled over."""
    factor: float
    inputs: int
    """Fixed entries that it takes; `outputs` are those it returns. Times channels, they are
    widths."""
    outputs: int
    single: bool
    """Whether it is a single linear map for any official `n_fc_layers`."""

    @property
    def name(self) -> str:
        kinds = [("weight", "bias")[i % 2] for i in (self.source, self.target)]
        return "{}_to_{}.layers.{}_{}.{}".format(
            *kinds, self.source // 2, self.target // 2, self.role
        )

    def module(
        self, in_channels: int, out_channels: int, num_maps: int, bias: bool, num_heads: int | None
    ) -> nn.Module:
        inputs, outputs = self.inputs * in_channels, self.outputs * out_channels
        if self.role != "mab":
            num_maps = 1 if self.single else num_maps
            return mlp(inputs, outputs, num_maps, bias and self.role != "Lambda")
        if num_heads is None:
            raise ValueError(
                "num_heads must be given for set attention ('sab'; 8 unless it was changed), as in "
                f"{self.name!r}"
            )
        return SetAttention(inputs, outputs, num_heads)


def maps_of(space: WeightSpace, attends: bool, diagonal: bool) -> list[Map]:
    """The maps of an official layer with set layers `sab` or `ds`."""
    specs, maps = space.tensors, []
    for source, target in product(range(len(specs)), repeat=2):
        near = bool(set(specs[source].axes) & set(specs[target].axes))
        if diagonal and not near:
            continue
        shared = tuple(axis for axis in specs[source].hidden if axis in specs[target].hidden)
        # Official weights are (in, out): lin_n pools over the inputs, lin_m over the outputs.
        by_shared: list[dict[str, tuple[tuple[str, ...], float]]] = [
            {"layer": ((), 1)},
            {"mab": (shared, 1)} if attends else {"Gamma": (shared, 1), "Lambda": ((), -1)},
            {
                "lin_all": (shared, 1 / 4),
                "lin_n": (shared[:1], 1 / 4),
                "lin_m": (shared[1:], 1 / 4),
                "lin_both": ((), 1 / 4),
            },
        ]
        last = len(specs) - 2
        tied = target == last and source in (last - 2, *range(1, last - 1, 2))  # B1, B2
        for role, (kept, factor) in by_shared[len(shared)].items():
            maps.append(
                Map(
                    source,
                    target,
                    role,
                    kept,
                    factor / len(specs),
                    specs[source].num_fixed,
                    1 if tied else specs[target].num_fixed,
                    single=not near and (source - target) % 2 == 1,
                )
            )
    return maps


class Term(nn.Module):
    """One tensor's contribution to another through a nonlinear map, both folded.

    The source is pooled to the hidden axes `kept`. Fewer output columns than the target has are
    repeated. For folding see `dwsnet.incidence`.
    """

    def __init__(
        self,
        source: Folding,
        target: Folding,
        kept: Sequence[str],
        pooling: str,
        factor: float,
        map: nn.Module,
    ):
        super().__init__()
        self.pool, self.factor, self.map = POOLINGS[pooling], factor, map
        self.away = [dim for dim, axis in enumerate(source.axes, start=1) if axis not in kept]
        self.spread = [dim for dim, axis in enumerate(target.axes, start=1) if axis not in kept]

    def forward(
        self, source: Float[Tensor, "batch ... inputs"], columns: int
    ) -> Float[Tensor, "batch ... {columns}"]:
        y = self.factor * self.map(self.pool(source, self.away) if self.away else source)
        for dim in self.spread:
            y = y.unsqueeze(dim)
        return y.repeat(*[1] * (y.ndim - 1), columns // y.shape[-1])


class OfficialLayer(nn.Module):
    """The official DWSLayer: linear part, other terms (source, target, term), entrywise skip."""

    def __init__(
        self,
        linear: EquivariantLinear,
        terms: Sequence[tuple[int, int, Term]],
        skip: nn.Module | None,
    ):
        super().__init__()
        self.linear, self.skip = linear, skip
        self.pairs = [(source, target) for source, target, _ in terms]
        self.terms = nn.ModuleList(term for _, _, term in terms)

    def forward(
        self, features: Sequence[Float[Tensor, "batch ... in_channels"]]
    ) -> tuple[Float[Tensor, "batch ... out_channels"], ...]:
        incidence = self.linear.incidence
        folded, sums = incidence.fold(features), list(incidence.fold(self.linear(features)))
        for (source, target), term in zip(self.pairs, self.terms, strict=True):
            sums[target] = sums[target] + term(folded[source], sums[target].shape[-1])
        outputs = incidence.unfold(sums)
        if self.skip is not None:
            outputs = tuple(self.skip(x) + y for x, y in zip(features, outputs, strict=True))
        return outputs


class OfficialDWSNet(nn.Module):
    """The official DWSModel: layers, ReLU and optional batch norms between, an optional skip.

    Takes and returns `(batch, *spec.shape, channels)` for each tensor of the space, with weights
    `(out, in)` as in torch (the official code has `(in, out)`). The official dropout, which is
    never switched off (B3), is left out.
    """

    def __init__(
        self,
        layers: Sequence[OfficialLayer],
        norms: Sequence[nn.Module],
        skip: nn.Linear | None,
    ):
        super().__init__()
        self.layers, self.norms, self.skip = nn.ModuleList(layers), nn.ModuleList(norms), skip

    def forward(
        self, features: Sequence[Float[Tensor, "batch ... in_channels"]]
    ) -> tuple[Float[Tensor, "batch ... out_channels"], ...]:
        outputs = self.layers[0](features)
        for i, layer in enumerate(self.layers[1:]):
            normed = self.norms[i](outputs) if self.norms else outputs
            outputs = layer(tuple(F.relu(x) for x in normed))
        if self.skip is not None:
            outputs = tuple(self.skip(x) + y for x, y in zip(features, outputs, strict=True))
        return outputs


class OfficialClassifier(nn.Module):
    """The official DWSModelForClassification.

    Maps features `(batch, *spec.shape, channels)` to `(batch, classes)`.
    """

    def __init__(self, trunk: OfficialDWSNet, head: nn.Module):
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(
        self, features: Sequence[Float[Tensor, "batch ... in_channels"]]
    ) -> Float[Tensor, "batch classes"]:
        return self.head([F.relu(x) for x in self.trunk(features)])
