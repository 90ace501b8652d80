"""Reads the tensors of a weight space from a module or a state dict.

Only chains are read, in which every layer takes the output of the layer before. What breaks the
chain, or mixes neurons in other ways than a weight matrix, is refused in one sentence rather than
described wrongly.
"""

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.lazy import LazyModuleMixin

from dwsnet.module_layers import RULES
from dwsnet.neurons import INPUT, Description, Value, flattened, over_positions, reduced
from dwsnet.tensor_spec import COUNTER, TensorSpec

Layer = tuple[str, tuple[int, ...], bool]
"""Name, shape of the weight `(out, in, positions...)`, whether it has a bias."""

ELEMENTWISE = re.compile(
    "relu|relu6|leaky_relu|elu|selu|celu|gelu|silu|mish|hardtanh|hardswish|hardsigmoid|tanh|sigmoid"
    "|softplus|softsign|logsigmoid|sin|cos|exp|log|sqrt|abs|neg|square|sign|clamp|pow"
    "|mul|add|sub|truediv|div|dropout|dropout[123]d|alpha_dropout|contiguous|clone"
)
"""Names of functions and tensor methods that act on each entry separately."""
SOFTMAX, REDUCTIONS = {"softmax", "log_softmax", "softmin"}, {"mean", "sum", "amax", "amin"}
POOLING = ("max_pool", "avg_pool", "lp_pool", "adaptive_max_pool", "adaptive_avg_pool")


def tensors_of_module(module: nn.Module) -> tuple[TensorSpec, ...]:
    """All tensors of the module's state dict except counters, in the order of use.

    Raises ValueError for anything but a chain of layers that `dwsnet.module_layers` describes.
    """
    *nodes, output = _trace(module).nodes
    sizes = _sizes(nodes)
    to, values = Description(), dict[fx.Node, Value]()
    for node in nodes:
        inputs = [one for one in node.all_input_nodes if one not in sizes]
        if node in sizes:
            continue
        if not (_has_tensors(module, node) or any(values[one].dims for one in inputs)):
            values[node] = INPUT  # depends only on the input and on constants
            continue
        value = values[_only(node, "input", inputs)]
        _only(node, "use", [one for one in node.users if one not in sizes])
        if node.op != "call_module":
            values[node] = _function(node, value)
            continue
        layer = module.get_submodule(node.target)
        if type(layer) not in RULES or "forward" in vars(layer):
            raise ValueError(
                f"layer {node.target!r} must be a linear layer, convolution, embedding, norm, "
                f"pooling or activation of torch.nn, cannot describe {type(layer).__name__}"
            )
        values[node] = RULES[type(layer)](to, node.target, layer, value)
    return _described(module, to, values[_only(output, "input", output.all_input_nodes)])


def _only(node: fx.Node, kind: str, found: Sequence[fx.Node]) -> fx.Node:
    if len(found) != 1:
        raise ValueError(
            f"{node.name!r} must have one {kind}, found {[one.name for one in found]}: a skip, a "
            "branch or a tensor outside of a layer, which no chain describes"
        )
    return found[0]


def _trace(module: nn.Module) -> fx.Graph:
    if not isinstance(module, nn.Module):
        raise ValueError(f"a module must be a torch.nn.Module, found a {type(module).__name__}")
    for name, one in module.named_modules():
        lazy = isinstance(one, LazyModuleMixin)
        if lazy and one.has_uninitialized_params():
            raise ValueError(
                f"lazy layer {name!r} must be called once, as its shapes are not known yet"
            )
        if one._forward_hooks or one._forward_pre_hooks:
            raise ValueError(
                f"{name or type(one).__name__!r} must have no forward hooks, whose effect cannot "
                "be seen"
            )
    try:
        return fx.Tracer().trace(module)
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} must be a fixed sequence of layers, but cannot be traced: "
            f"{str(error).partition(chr(10))[0]}"
        ) from error


def _sizes(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes that are sizes of tensors, or arithmetic with sizes only."""
    sizes: set[fx.Node] = set()
    for node in nodes:
        asks = (node.op, node.target) in (("call_method", "size"), ("call_method", "dim")) or (
            node.target is getattr and node.args[1] in ("shape", "ndim")
        )
        inputs = node.all_input_nodes
        if asks or (inputs and sizes >= set(inputs) and _is_of(node, operator)):
            sizes.add(node)
    return sizes


def _is_of(node: fx.Node, *modules: ModuleType) -> bool:
    """Whether the node calls a function of one of the modules."""
    name = getattr(node.target, "__name__", "")
    return any(getattr(module, name, None) is node.target for module in modules)


def _function(node: fx.Node, value: Value) -> Value:
    """The output of a function or tensor method.

    Raises ValueError if it may treat neurons differently.
    """
    name = node.target if isinstance(node.target, str) else node.target.__name__
    known = node.op == "call_method" or _is_of(node, torch, F, operator)
    name, arguments = name.strip("_"), list[Any](node.args[1:])
    if known and ELEMENTWISE.fullmatch(name):
        return value
    if known and name in SOFTMAX:
        return replace(value, scalable=False)
    if known and name[:-2] in POOLING:
        return over_positions(node.name, value, int(name[-2]))
    if known and name in REDUCTIONS:
        dims: Any = arguments[0] if arguments else node.kwargs.get("dim")
        keepdim: Any = arguments[1] if len(arguments) > 1 else node.kwargs.get("keepdim", False)
        dims = [dims] if isinstance(dims, int) else dims
        if not isinstance(dims, Sequence):
            raise ValueError(f"{node.name!r} must be over dims of positions, found {dims}")
        return reduced(node.name, value, dims, keepdim)
    if known and name == "flatten":
        start: Any = arguments[0] if arguments else node.kwargs.get("start_dim", 0)
        end: Any = arguments[1] if len(arguments) > 1 else node.kwargs.get("end_dim", -1)
        return flattened(node.name, value, start, end)
    if known and name in ("view", "reshape") and _is_flatten(arguments):
        return flattened(node.name, value, 1, -1)
    hint = (
        ": flatten by x.flatten(1) or x.view(x.size(0), -1)" if name in ("view", "reshape") else ""
    )
    raise ValueError(
        f"{node.name!r} must be an operation that treats all neurons alike, cannot describe "
        f"{name}{hint}"
    )


def _is_flatten(shape: Sequence) -> bool:
    """Whether a shape keeps the batch and flattens the rest: `(x.size(0), ...)`.

    A shape `(-1, number)` might split pictures into parts.
    """
    if len(shape) == 1 and isinstance(shape[0], Sequence):
        shape = shape[0]
    return len(shape) == 2 and isinstance(shape[0], fx.Node) and _is_batch(shape[0])


def _is_batch(size: fx.Node) -> bool:
    """Whether a size is `x.size(0)` or `x.shape[0]`, and x is not a parameter."""
    asks: Any = size.args[0] if size.target is operator.getitem else size
    if (asks.op, asks.target) not in (("call_method", "size"), ("call_function", getattr)):
        return False
    return size.args[1:] == (0,) and asks.args[0].op != "get_attr"


def _described(module: nn.Module, to: Description, value: Value) -> tuple[TensorSpec, ...]:
    """The tensors, with the network's outputs fixed.

    Raises ValueError if tensors are missing or shared.
    """
    names = [spec.name for spec in to.tensors]
    if twice := sorted({name.rpartition(".")[0] for name in names if names.count(name) > 1}):
        raise ValueError(f"layers must be applied once, found {twice} more than once")
    known = {spec.name for spec in to.tensors}
    state = {name for name in module.state_dict() if not name.endswith(COUNTER)}
    if odd := sorted(known ^ state):
        raise ValueError(
            "every tensor of the state dict must belong to a layer that is applied, found "
            f"{odd[0]!r}, which does not"
        )
    shapes = {spec.name: spec.stored_shape for spec in to.tensors}
    owners: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name in known and tensor.shape != shapes[name]:
            raise ValueError(
                f"tensor {name!r} must have shape {shapes[name]} as its layer says, found "
                f"{tuple(tensor.shape)}"
            )
        if name in known and owners.setdefault(_memory(tensor), name) != name:
            raise ValueError(
                f"tensors must be independent, found {owners[_memory(tensor)]!r} and {name!r} tied"
            )
    given = {dim.axis for dim in value.dims or ()}
    tensors = tuple(
        replace(
            spec,
            axes=tuple(
                replace(axis, hidden=False) if axis in given else axis for axis in spec.axes
            ),
        )
        for spec in to.tensors
    )
    if not any(spec.hidden for spec in tensors):
        raise ValueError(
            f"a weight space needs at least two layers, found {sorted(known)}: no hidden neurons"
        )
    return tensors


def _has_tensors(module: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and len(module.get_submodule(str(node.target)).state_dict()) > 0


def _memory(tensor: Tensor) -> int:
    """Equal for tensors that share memory; tensors without memory share none."""
    return tensor.data_ptr() or id(tensor)


def layers_of_state_dict(state: Mapping[str, Tensor]) -> list[Layer]:
    """All `NAME.weight` with their `NAME.bias`, in the order of the dict.

    Raises ValueError for a tensor that is neither (norms, running statistics, attention
    projections).
    """
    layers = []
    for key, tensor in state.items():
        name, _, kind = key.rpartition(".")
        weight = state.get(f"{name}.weight")
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{key!r} must be a tensor, found a {type(tensor).__name__}")
        if kind == "weight" and 2 <= tensor.ndim <= 5:
            layers.append((name, tuple(tensor.shape), f"{name}.bias" in state))
        elif (
            kind != "bias"
            or weight is None
            or not 2 <= weight.ndim <= 5
            or tensor.shape != weight.shape[:1]
        ):
            raise ValueError(
                f"tensor {key!r} must be the weight (out, in) or (out, in, positions...) or the "
                f"bias (out,) of a layer, cannot describe shape {tuple(tensor.shape)}"
            )
    return layers
