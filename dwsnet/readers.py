"""Which layers a module or a state dict is made of, or one sentence that says why they are no weight space of ours.

A weight space here is a chain: every layer takes what the layer before gives. What breaks the chain, or mixes neurons in
other ways than a weight matrix, is refused rather than described wrongly.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, fx, nn

Layer = tuple[str, tuple[int, ...], bool]
"""Name, shape of the weight `(out, in, positions...)`, whether it has a bias."""

NEURON_BY_NEURON = (
    *(
        nn.ReLU,
        nn.LeakyReLU,
        nn.ELU,
        nn.GELU,
        nn.SiLU,
        nn.Tanh,
        nn.Sigmoid,
        nn.Softplus,
        nn.Identity,
        nn.Dropout,
        nn.Dropout2d,
    ),
    *(
        nn.Flatten,
        nn.MaxPool2d,
        nn.AvgPool2d,
        nn.AdaptiveAvgPool2d,
        nn.AdaptiveMaxPool2d,
        nn.Softmax,
        nn.LogSoftmax,
    ),
)
"""Modules without weights that treat all neurons of a layer alike."""

FUNCTIONS = (
    *(
        "relu",
        "leaky_relu",
        "elu",
        "gelu",
        "silu",
        "tanh",
        "sigmoid",
        "softplus",
        "sin",
        "cos",
        "mul",
        "add",
        "sub",
        "truediv",
    ),
    *(
        "dropout",
        "flatten",
        "mean",
        "max_pool2d",
        "avg_pool2d",
        "adaptive_avg_pool2d",
        "softmax",
        "log_softmax",
    ),
)
"""The same as functions and tensor methods, by name."""


def layers_of_module(module: nn.Module) -> list[Layer]:
    """Every linear and convolution layer in the order in which the module applies them.

    Raises ValueError for anything but a chain of nn.Linear, nn.Conv2d and neuron-by-neuron operations.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"a module must be a torch.nn.Module, found a {type(module).__name__}")
    try:
        graph = fx.Tracer().trace(module)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ValueError(
            f"{type(module).__name__} must be a fixed sequence of layers, but cannot be traced: {error}"
        ) from error
    layers: list[Layer] = []
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if len(node.all_input_nodes) != 1 or len(node.users) != 1:
            raise ValueError(
                f"{node.name!r} must have one input and one use, found a skip or a branch, which no chain describes"
            )
        if node.op == "call_module":
            layers += layer_of(node.target, module.get_submodule(node.target))
            continue
        function = getattr(node.target, "__name__", node.target).strip("_")
        if function not in FUNCTIONS:
            raise ValueError(
                f"{node.name!r} must be a neuron-by-neuron operation, cannot describe {node.target}"
            )
        if function == "mean" and _dims(node) not in ([2, 3], [-2, -1]):
            raise ValueError(
                f"{node.name!r} must average over rows and columns, dims (2, 3), found dims {_dims(node)}"
            )
    names = [name for name, _, _ in layers]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"layers must be applied once, found {sorted(twice)} more than once")
    return layers


def _dims(node: fx.Node) -> list[int] | None:
    """Dimensions that a call of `mean` averages over, in order."""
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return sorted(dims) if isinstance(dims, Sequence) else dims


def layer_of(name: str, module: nn.Module) -> list[Layer]:
    """The layer that a module is; none where it has no weights and treats neurons alike."""
    if isinstance(module, NEURON_BY_NEURON):
        return []
    if not isinstance(module, nn.Linear | nn.Conv2d):
        raise ValueError(
            f"layer {name!r} must be nn.Linear or nn.Conv2d, cannot describe {type(module).__name__}"
        )
    if getattr(module, "groups", 1) != 1:
        raise ValueError(
            f"layer {name!r} must have groups=1, cannot describe a convolution of {module.groups} groups"
        )
    return [(name, tuple(module.weight.shape), module.bias is not None)]


def layers_of_state_dict(state: Mapping[str, Tensor]) -> list[Layer]:
    """Every `NAME.weight` with its `NAME.bias`, in the order of the dict.

    Raises ValueError for a tensor that is neither (norms, running statistics, attention projections).
    """
    layers = []
    for key, tensor in state.items():
        name, _, kind = key.rpartition(".")
        weight = state.get(f"{name}.weight")
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{key!r} must be a tensor, found a {type(tensor).__name__}")
        if kind == "weight" and tensor.ndim in (2, 4):
            layers.append((name, tuple(tensor.shape), f"{name}.bias" in state))
        elif (
            kind != "bias"
            or weight is None
            or weight.ndim not in (2, 4)
            or tensor.shape != weight.shape[:1]
        ):
            raise ValueError(
                f"tensor {key!r} must be the weight (out, in) or (out, in, row, column) or the bias (out,) of a layer, "
                f"cannot describe shape {tuple(tensor.shape)}"
            )
    return layers
