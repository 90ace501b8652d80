"""Reads state dicts of the official DWSNets code (github.com/AvivNavon/DWSNets) with DeepSets set layers (`ds`).

The official layer is 4M^2 small modules, one for each pair of tensors. Written out, each of them is a sum over sets S
of shared hidden axes of one linear map of the source pooled over all its hidden axes outside S: a set layer `Gamma x -
Lambda pool(x)` is S = {axis} and S = {}, the four terms of a set-by-set layer are the four S, the rest is S = {}. So
the whole official layer is an `EquivariantLinear` with that pooling, and reading it means putting each coefficient in
its place: over 2M for the layer's normalisation, over 4 for a set-by-set layer, with the minus sign of Lambda. Two of
the official modules give every output column the same coefficients (papers' bugs B1, B2: the maps to the last weight
from the weight before it and from earlier biases); they are read as repeated rows, and what `diagonal` leaves out as
zeros. Training may change both.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.linear import EquivariantLinear, InvariantLinear
from dwsnet.normalize import BatchNorm
from dwsnet.state import load_tensors
from dwsnet.weight_space import WeightSpace

POOLINGS = ("max", "mean", "sum")
BLOCK = re.compile(
    r"(weight|bias)_to_(weight|bias)\.layers\.(\d+)_(\d+)\.(?:\w+\.)*?"
    r"(Gamma|Lambda|lin_all|lin_n|lin_m|lin_both|layer)\.0\.(weight|bias)"
)
"""A parameter of one official module: kinds of source and target, their layers, the role of the linear map."""
READABLE = re.compile(
    rf"(layers\.)?(layers\.\d+\.({BLOCK.pattern}|skip\.0\.\w+|\w+_bn\.\d+\.\w+)|skip\.\w+)|clf\.layer\.0\.\w+"
)
"""Every name in a state dict that is read."""


class OfficialDWSNet(nn.Module):
    """The official DWSModel: layers with ReLU and, where it had them, batch norms between, and a skip round all.

    Takes and returns `(batch, *spec.shape, channels)` for each tensor of the space, weights `(out, in)` as in torch
    (the official code has `(in, out)`). The official dropout, which is never switched off (B3), is left out.
    """

    def __init__(
        self,
        layers: Sequence[EquivariantLinear],
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
    """The official DWSModelForClassification: features `(batch, *spec.shape, channels)` to `(batch, classes)`."""

    def __init__(self, trunk: OfficialDWSNet, head: InvariantLinear):
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(
        self, features: Sequence[Float[Tensor, "batch ... in_channels"]]
    ) -> Float[Tensor, "batch classes"]:
        return self.head([F.relu(x) for x in self.trunk(features)])


def read_official(
    state: Mapping[str, Tensor], space: WeightSpace, pooling: str
) -> OfficialDWSNet | OfficialClassifier:
    """The model of an official state dict, with the same outputs, in evaluation mode and in the dtype of the state dict.

    `space` is an MLP's and `pooling` is the official `reduction` (max, mean or sum): the state dict tells neither.
    Raises ValueError for what is not read (set attention, several linear maps in a block, downsampling), and for tensors
    that are missing, of another shape, dtype or device than they must be, or not finite.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
    if unknown := [name for name in state if READABLE.fullmatch(name) is None]:
        raise ValueError(
            f"an official state dict must come from set layers 'ds' with one linear map a block and no downsampling, "
            f"found {unknown[0]!r}"
        )
    _check_alike(state)
    if "clf.layer.0.weight" not in state:
        return _read_trunk(state, space, pooling).eval()
    trunk = _read_trunk(_below(state, "layers."), space, pooling)
    head = _read_head(_below(state, "clf.layer.0."), space, trunk.layers[-1].out_channels, pooling)
    return OfficialClassifier(trunk, head).eval()


def _check_alike(state: Mapping[str, Tensor]):
    """Raises ValueError where floating point tensors are not finite and of one dtype and device."""
    first = None
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name!r} must be a torch.Tensor, found a {type(tensor).__name__}")
        if name.endswith("num_batches_tracked"):
            continue
        first = first or (name, tensor.dtype, tensor.device)
        if not tensor.is_floating_point() or (tensor.dtype, tensor.device) != first[1:]:
            raise ValueError(
                f"{name!r} of shape {tuple(tensor.shape)} must be floating point, of dtype {first[1]} on {first[2]} as "
                f"{first[0]!r} is, found {tensor.dtype} on {tensor.device}"
            )
        if not tensor.isfinite().all():
            raise ValueError(
                f"{name!r} of shape {tuple(tensor.shape)} must be finite, found NaN or infinity"
            )


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def _read_trunk(state: Mapping[str, Tensor], space: WeightSpace, pooling: str) -> OfficialDWSNet:
    if not any(name.startswith("layers.") for name in state):
        raise ValueError(f"an official state dict must have layers, found {[*state]}")
    places = sorted({int(name.split(".")[1]) for name in state if name.startswith("layers.")})
    parts = [_below(state, f"layers.{place}.") for place in places]
    layers = [
        _read_layer(part, space, pooling) for part in parts if "weights_bn.0.weight" not in part
    ]
    norms = [
        _read_norm(part, space, layers[0].out_channels)
        for part in parts
        if "weights_bn.0.weight" in part
    ]
    ends = layers[0].in_channels, layers[-1].out_channels
    skip = _below(state, "skip.")
    return OfficialDWSNet(layers, norms, _linear(skip, "skip", *ends) if skip else None)


def _read_layer(state: Mapping[str, Tensor], space: WeightSpace, pooling: str) -> EquivariantLinear:
    _check_blocks(state, space)
    first = state["bias_to_bias.layers.0_0.layer.set_layer.Gamma.0.weight"]
    out_channels, in_channels = first.shape
    layer = EquivariantLinear(space, in_channels, out_channels, pooling).to(first.dtype)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    for name, tensor in state.items():
        if not name.startswith("skip."):
            _place(layer, name, tensor)
    if values := _below(state, "skip.0."):
        skip = _linear(values, "skip.0", in_channels, out_channels)
        for i, spec in enumerate(space.tensors):
            block_of(layer, spec.hidden, i, i).add_(
                torch.kron(torch.eye(spec.num_fixed).to(first), skip.weight.data)
            )
            layer.biases[i].data.add_(skip.bias.data.repeat(spec.num_fixed))
    return layer


def _check_blocks(state: Mapping[str, Tensor], space: WeightSpace):
    """Raises ValueError where a block, a linear map of one or a bias is missing: it would be read as zero."""
    found = Counter(
        match.group(1, 2, 3, 4)
        for match in map(BLOCK.fullmatch, state)
        if match and match[6] == "weight"
    )
    depth = len(space.tensors) // 2
    if len(found) not in (full := 4 * depth**2, diagonal := 8 * depth - 4):
        raise ValueError(
            f"an official layer for {2 * depth} tensors must have {full} blocks, or {diagonal} if diagonal, found {len(found)}"
        )
    for block, num_maps in found.items():
        source, target = _tensors(block)
        shared = set(space.tensors[source].hidden) & set(space.tensors[target].hidden)
        if num_maps != 2 ** len(shared):
            raise ValueError(
                f"the block {'{}_to_{}.layers.{}_{}'.format(*block)} must have {2 ** len(shared)} weights, found {num_maps}"
            )

    biased = [
        name
        for name in state
        if BLOCK.fullmatch(name) and name.endswith(".weight") and ".Lambda." not in name
    ]
    for name in (weight.removesuffix("weight") + "bias" for weight in biased):
        if name not in state and any(
            BLOCK.fullmatch(other) and other.endswith(".bias") for other in state
        ):
            raise ValueError(
                f"an official layer must have biases everywhere or nowhere, missing {name!r}"
            )


def _tensors(block: Sequence[str]) -> tuple[int, int]:
    """Positions of source and target in the space, of a block (source kind, target kind, source layer, target layer)."""
    source_kind, target_kind, i, j = block
    return 2 * int(i) + (source_kind == "bias"), 2 * int(j) + (target_kind == "bias")


def block_of(layer: EquivariantLinear, axes: Sequence[str], target: int, source: int) -> Tensor:
    """A view into the layer's weights: what takes the source pooled to `axes` to the target."""
    incidence = layer.incidence
    s = next(s for s, known in enumerate(incidence.axis_sets) if set(known) == set(axes))
    rows = layer.weights[s].data.split(incidence.widths(s, layer.out_channels))[
        incidence.carriers[s].index(target)
    ]
    return rows.split(incidence.widths(s, layer.in_channels), 1)[
        incidence.carriers[s].index(source)
    ]


def _place(layer: EquivariantLinear, name: str, tensor: Tensor):
    """Add one official parameter to the coefficient it is part of. Raises ValueError where it does not fit the space."""
    *block, role, parameter = BLOCK.fullmatch(name).groups()
    source, target = _tensors(block)
    specs = layer.space.tensors
    shared = [axis for axis in specs[source].hidden if axis in specs[target].hidden]
    # The official weights are (in, out): lin_n pools over their first axis, the inputs, lin_m over the outputs.
    kept, factor = {
        "layer": ([], 1),
        "Gamma": (shared, 1),
        "Lambda": ([], -1),
        "lin_all": (shared, 1 / 4),
        "lin_n": (shared[:1], 1 / 4),
        "lin_m": (shared[1:], 1 / 4),
        "lin_both": ([], 1 / 4),
    }[role]
    value = tensor * factor / len(specs)
    if len(value) == layer.out_channels:  # B1, B2: the same for every column
        value = torch.cat([value] * specs[target].num_fixed)
    place = (
        layer.biases[target].data if parameter == "bias" else block_of(layer, kept, target, source)
    )
    if place.shape != value.shape:
        raise ValueError(
            f"{name!r} must have shape {tuple(place.shape)} for this weight space, found {tuple(value.shape)}"
        )
    place.add_(value)


def _read_norm(state: Mapping[str, Tensor], space: WeightSpace, channels: int) -> BatchNorm:
    norm = BatchNorm(space, channels).to(state["weights_bn.0.weight"])
    for i, module in enumerate(norm.norms):
        name = f"{'biases' if i % 2 else 'weights'}_bn.{i // 2}"
        load_tensors(
            module,
            {"num_batches_tracked": torch.tensor(0)} | _below(state, f"{name}."),
            f"{name!r}",
        )
    return norm


def _read_head(
    state: Mapping[str, Tensor], space: WeightSpace, channels: int, pooling: str
) -> InvariantLinear:
    """The official head, which has the inner weights first, then first and last weight, then the biases, in our order."""
    count = len(space.tensors)
    order = [*range(2, count - 2, 2), 0, count - 2, *range(1, count, 2)]
    sizes = [space.tensors[i].num_fixed * channels for i in order]
    linear = _linear(state, "clf.layer.0", sum(sizes), len(next(iter(state.values()))))
    columns = dict(zip(order, linear.weight.data.split(sizes, 1), strict=True))
    head = InvariantLinear(space, channels, linear.out_features, pooling).to(linear.weight)
    ordered = torch.cat([columns[i] for i in range(count)], 1)
    head.linear.load_state_dict({"weight": ordered, "bias": linear.bias.data})
    return head


def _linear(state: Mapping[str, Tensor], name: str, inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs).to(next(iter(state.values())))
    load_tensors(linear, state, f"{name!r}")
    return linear
