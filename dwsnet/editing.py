"""Networks in, networks out: the weight-output model."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.models import NO_SKIP, DWSNet, ReadState
from dwsnet.pretrained import Pretrained
from dwsnet.state import check_counts, stored
from dwsnet.weight_space import TensorSpec, WeightSpace


class DWSNetEditor(Pretrained):
    """Maps networks to networks: v - dv, where dv starts near zero, so an untrained editor returns nearly its input.

    Takes stacked state dicts `{name: (batch, *spec.shape)}`; returns the same, equivariantly. With `expansion` k > 1
    (output-capacity expansion, Dayan et al. 2026: equal-size outputs cannot express all operators on functions) every
    hidden axis of the output is k times as long: `k` copies of each neuron with their outgoing weights divided by k,
    which is the same function, minus a dv of its own for every entry. Neuron `i` becomes neurons `i k` to `i k + k - 1`.
    Raises ValueError where the space does not say which tensor computes an axis and which sums over it (`TensorSpec.roles`).
    `init_scale` is the spread of dv's first weights (the official code's for weight outputs); `trunk` are further arguments
    of `DWSNet`.
    """

    earlier = NO_SKIP

    def __init__(
        self,
        space: WeightSpace,
        channels: int,
        num_layers: int,
        expansion: int = 1,
        init_scale: float = 1e-4,
        **trunk: int | float | str | bool,
    ):
        super().__init__()
        check_counts(expansion=expansion)
        self.config = {
            "channels": channels,
            "num_layers": num_layers,
            "expansion": expansion,
            "init_scale": init_scale,
            **trunk,
        }
        if expansion > 1:
            space.check_roles()
        self.space, self.expansion = space, expansion
        self.read = ReadState(space, canonical_signs=False)
        self.trunk = DWSNet(space, 1, channels, num_layers, **trunk)
        self.config["skip"] = self.trunk.skip
        self.heads = nn.ModuleList(
            nn.Linear(channels, expansion ** len(spec.hidden)) for spec in space.tensors
        )
        for head in self.heads:
            nn.init.normal_(head.weight, std=init_scale)
            nn.init.zeros_(head.bias)

    def forward(self, state: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "batch ..."]]:
        features = self.trunk(tuple(x.unsqueeze(-1) for x in self.read(state)))
        result = {}
        for spec, x, head, std in zip(
            self.space.tensors, features, self.heads, self.read.standardize.std, strict=True
        ):
            change = head(x) * std
            network = state[spec.name].reshape(x.shape[0], *spec.shape, 1)
            result[spec.name] = stored(spec, self._expanded(spec, network - change))
        return result

    def _expanded(
        self, spec: TensorSpec, copies: Float[Tensor, "batch ... copies"]
    ) -> Float[Tensor, "batch ..."]:
        """The copies moved into the hidden axes, and over k for each that the tensor sums over."""
        k, hidden = (
            self.expansion,
            [dim for dim, axis in enumerate(spec.axes, start=1) if axis.hidden],
        )
        x = copies.unflatten(-1, (k,) * len(hidden)) if hidden else copies.squeeze(-1)
        # from (batch, axes..., k of each hidden axis) to (batch, axes with k behind each hidden one)
        order = [0]
        for dim in range(1, len(spec.axes) + 1):
            order += [dim, len(spec.axes) + 1 + hidden.index(dim)] if dim in hidden else [dim]
        sizes = [axis.size * k if axis.hidden else axis.size for axis in spec.axes]
        summed = [name for name in spec.hidden if spec.role(name) == "in"]
        return x.permute(order).reshape(x.shape[0], *sizes) / k ** len(summed)
