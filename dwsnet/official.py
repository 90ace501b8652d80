"""Reads state dicts of the official DWSNets code (github.com/AvivNavon/DWSNets).

Set layers may be `ds` or `sab`. A block of the official layer maps one tensor to another by maps of
different roles, each of which takes the source pooled to some of the hidden axes that the two
share: a set layer `Gamma x - Lambda pool(x)` keeps the axis in one map and not in the other, set
attention (`mab`) keeps it, a set-by-set layer has a map for each of the four subsets of its two
axes, all other blocks keep none. Each map is read into the matching weights: divided by 2M for the
layer's normalisation, by 4 for a set-by-set layer, with the minus sign of Lambda. Two kinds of
blocks share one set of columns between all outputs (bugs B1 and B2: to the last weight, from the
weight before it and from earlier biases), which is repeated. `diagonal` leaves out the blocks of
tensors that share no axis.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from dwsnet.linear import EquivariantLinear, InvariantLinear
from dwsnet.normalize import BatchNorm
from dwsnet.official_model import (
    POOLINGS,
    Map,
    OfficialClassifier,
    OfficialDWSNet,
    OfficialLayer,
    Term,
    maps_of,
    mlp,
)
from dwsnet.state import check_counts, load_tensors
from dwsnet.weight_space import WeightSpace

Loaded = TypeVar("Loaded", bound=nn.Module)
BLOCK = re.compile(
    r"(weight|bias)_to_(weight|bias)\.layers\.(\d+)_(\d+)\.(?:\w+\.)*?"
    r"(Gamma|Lambda|mab|lin_all|lin_n|lin_m|lin_both|layer)\.((?:\d+|fc_[qkvo])\.(?:weight|bias))"
)
"""A parameter of an official module: kinds of source and target, their layers, the role of the map,
the parameter's name."""
READABLE = re.compile(
    rf"(layers\.)?(layers\.\d+\.({BLOCK.pattern}|skip\.\d+\.\w+|\w+_bn\.\d+\.\w+)|skip\.\w+)"
    r"|clf\.layer\.\d+\.\w+"
)
"""All names in a state dict that can be read."""


def read_official(
    state: Mapping[str, Tensor], space: WeightSpace, pooling: str, num_heads: int | None = None
) -> OfficialDWSNet | OfficialClassifier:
    """Build the model of an official state dict, with the same outputs.

    It is in evaluation mode and in the dtype of the state dict. `space` is an MLP's, `pooling` is
    the official `reduction` (max, mean or sum) and `num_heads` the official `num_heads`, which set
    attention needs (8 unless it was changed); the state dict contains none of these. Raises
    ValueError for unsupported models (downsampling), and for tensors that are missing, unknown, not
    finite, or of the wrong shape, dtype or device.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
    if num_heads is not None:
        check_counts(num_heads=num_heads)
    if unknown := [name for name in state if READABLE.fullmatch(name) is None]:
        raise ValueError(
            "an official state dict must come from a DWSModel or DWSModelForClassification without "
            f"input_dim_downsample, found {unknown[0]!r}"
        )
    _check_mlp(space)
    _check_alike(state)
    if "clf.layer.0.weight" not in state:
        return _read_trunk(state, space, pooling, num_heads).eval()
    trunk = _read_trunk(_below(state, "layers."), space, pooling, num_heads)
    channels = trunk.layers[-1].linear.out_channels
    return OfficialClassifier(trunk, _read_head(state, space, channels, pooling)).eval()


def _check_mlp(space: WeightSpace):
    """Raise ValueError unless tensors are weights `(out, in)` and biases of a chain of layers."""
    specs = space.tensors
    axes = [specs[0].axes[-1], *(spec.axes[0] for spec in specs[1::2])]
    expected = [own for source, target in pairwise(axes) for own in ((target, source), (target,))]
    hidden = [axis.hidden for axis in axes[1:-1]]
    shapes = {spec.name: spec.shape for spec in specs}
    if [spec.axes for spec in specs] != expected or not all(hidden) or axes[-1].hidden:
        raise ValueError(
            "the space of an official model must be an MLP's, weight (out, in) and bias of each "
            f"layer, found tensors {shapes}"
        )


def _check_alike(state: Mapping[str, Tensor]):
    """Raise ValueError unless tensors are finite floating point, of one dtype and device."""
    first = None
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name!r} must be a torch.Tensor, found a {type(tensor).__name__}")
        if name.endswith("num_batches_tracked"):
            continue
        first = first or (name, tensor.dtype, tensor.device)
        if not tensor.is_floating_point() or (tensor.dtype, tensor.device) != first[1:]:
            raise ValueError(
                f"{name!r} of shape {tuple(tensor.shape)} must be floating point, of dtype "
                f"{first[1]} on {first[2]} as {first[0]!r} is, found {tensor.dtype} on "
                f"{tensor.device}"
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


def _read_trunk(
    state: Mapping[str, Tensor], space: WeightSpace, pooling: str, num_heads: int | None
) -> OfficialDWSNet:
    places = sorted({int(name.split(".")[1]) for name in state if name.startswith("layers.")})
    parts = {place: _below(state, f"layers.{place}.") for place in places}
    norms = [place for place in places if any("_bn." in name for name in parts[place])]
    layers = [place for place in places if place not in norms]
    # The official Sequential: a layer, then a norm (or none), ReLU, dropout and a layer, ...
    step = 4 if norms else 3
    expected = [step * i for i in range(len(layers))], [4 * i + 1 for i in range(len(layers) - 1)]
    if not layers or (layers, norms) != (expected[0], expected[1] if norms else []):
        raise ValueError(
            f"an official state dict must have layers at 0, {step}, {2 * step}, ... and a norm "
            f"after each but the last or none, found layers at {layers}, norms at {norms}"
        )
    heads = [num_heads] * len(layers)
    if len(layers) > 1 and num_heads is not None:
        heads[-1] = 1  # as in the official code's last layer
    read = [
        _read_layer(parts[place], f"layers.{place}", space, pooling, layer_heads)
        for place, layer_heads in zip(layers, heads, strict=True)
    ]
    width = read[0].linear.out_channels
    ends = read[0].linear.in_channels, read[-1].linear.out_channels
    skip = _below(state, "skip.")
    return OfficialDWSNet(
        read,
        [_read_norm(parts[place], space, width) for place in norms],
        _load(nn.Linear(*ends), skip, "skip") if skip else None,
    )


def _read_layer(
    state: Mapping[str, Tensor],
    name: str,
    space: WeightSpace,
    pooling: str,
    num_heads: int | None,
) -> OfficialLayer:
    found: dict[str, dict[str, Tensor]] = {}
    for parameter, tensor in state.items():
        if match := BLOCK.fullmatch(parameter):
            map_name = "{}_to_{}.layers.{}_{}.{}".format(*match.group(1, 2, 3, 4, 5))
            found.setdefault(map_name, {})[match[6]] = tensor
    maps = _maps_found(space, found)
    if unknown := [map_name for map_name in found if map_name not in {one.name for one in maps}]:
        raise ValueError(f"{name!r} must have {len(maps)} maps, found also {unknown[0]!r}")
    # Linear for every set layer: it shows the channels, and what all maps have in common.
    common = found.get("weight_to_weight.layers.1_1.lin_all", {})
    if "0.weight" not in common or common["0.weight"].ndim != 2:
        raise ValueError(
            f"{name!r} must have a matrix 'weight_to_weight.layers.1_1.lin_all.0.weight', found "
            "none"
        )
    (outputs, inputs), bias = common["0.weight"].shape, "0.bias" in common
    num_maps = sum(parameter.endswith("weight") for parameter in common)

    linear = EquivariantLinear(space, inputs, outputs, pooling).to(common["0.weight"])
    for tensor in linear.parameters():
        nn.init.zeros_(tensor)
    terms = []
    for one in maps:
        module = one.module(inputs, outputs, num_maps, bias, num_heads)
        _load(module, found.get(one.name, {}), f"{name}.{one.name}")
        if isinstance(module, nn.Sequential) and len(module) == 1:
            _add(linear, one, cast(nn.Linear, module[0]))
        else:
            source, target = (linear.incidence.foldings[i] for i in (one.source, one.target))
            term = Term(source, target, one.kept, pooling, one.factor, module)
            terms.append((one.source, one.target, term))
    skip = _below(state, "skip.")
    entry = _load(mlp(inputs, outputs, num_maps, bias), skip, f"{name}.skip") if skip else None
    return OfficialLayer(linear, terms, entry)


def _maps_found(space: WeightSpace, names: Collection[str]) -> list[Map]:
    """The maps that a layer with these names must have.

    Raises ValueError if there are too few or too many blocks.
    """
    attends = any(name.endswith("mab") for name in names)
    found = len({name.rpartition(".")[0] for name in names})
    kinds = [maps_of(space, attends, diagonal) for diagonal in (False, True)]
    counts = [len({(one.source, one.target) for one in maps}) for maps in kinds]
    if found not in counts:
        raise ValueError(
            f"an official layer for {len(space.tensors)} tensors must have {counts[0]} blocks, or "
            f"{counts[1]} if diagonal, found {found}"
        )
    return kinds[counts.index(found)]


def block_of(layer: EquivariantLinear, axes: Sequence[str], target: int, source: int) -> Tensor:
    """A view of the layer's weights that map the source, pooled to `axes`, to the target."""
    incidence = layer.incidence
    s = next(s for s, known in enumerate(incidence.axis_sets) if set(known) == set(axes))
    rows = layer.weights[s].data.split(incidence.widths(s, layer.out_channels))[
        incidence.carriers[s].index(target)
    ]
    return rows.split(incidence.widths(s, layer.in_channels), 1)[
        incidence.carriers[s].index(source)
    ]


def _add(layer: EquivariantLinear, one: Map, linear: nn.Linear):
    """Add a linear official map to the coefficients it belongs to."""
    block = block_of(layer, one.kept, one.target, one.source)
    block.add_(linear.weight.data.repeat(len(block) // linear.out_features, 1) * one.factor)
    if linear.bias is not None:
        bias = layer.biases[one.target].data
        bias.add_(linear.bias.data.repeat(len(bias) // linear.out_features) * one.factor)


def _read_norm(state: Mapping[str, Tensor], space: WeightSpace, channels: int) -> BatchNorm:
    norm = BatchNorm(space, channels)
    for i, module in enumerate(norm.norms):
        name = f"{'biases' if i % 2 else 'weights'}_bn.{i // 2}"
        values = _below(state, f"{name}.")
        _load(module, {"num_batches_tracked": torch.tensor(0)} | values, name)
    return norm


def _read_head(
    state: Mapping[str, Tensor], space: WeightSpace, channels: int, pooling: str
) -> nn.Sequential:
    """Read the official head, reordered to our order of tensors.

    The official order is inner weights, first and last weight, biases.
    """
    values, count = _below(state, "clf.layer."), len(space.tensors)
    order = [*range(2, count - 2, 2), 0, count - 2, *range(1, count, 2)]
    sizes = [space.tensors[i].num_fixed * channels for i in order]
    num_maps = sum(name.endswith("weight") for name in values)
    layers = mlp(sum(sizes), len(values["0.weight"]), num_maps, bias=True)
    first, *others = _load(layers, values, "clf.layer")
    columns = dict(zip(order, first.weight.data.split(sizes, 1), strict=True))
    head = InvariantLinear(space, channels, first.out_features, pooling).to(first.weight)
    ordered = torch.cat([columns[i] for i in range(count)], 1)
    head.linear.load_state_dict({"weight": ordered, "bias": first.bias.data})
    return nn.Sequential(head, *others)


def _load(module: Loaded, state: Mapping[str, Tensor], name: str) -> Loaded:
    """Load copies of the tensors of `state`, keeping their dtype and device."""
    copies = {parameter: tensor.detach().clone() for parameter, tensor in state.items()}
    load_tensors(module, copies, repr(name), assign=True)
    return module
