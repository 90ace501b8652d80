"""Heads on encoders."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dwsnet.state import check_counts, stored
from dwsnet.tensor_spec import TensorSpec


class ValuesHead(nn.Module):
    """A head for `num_values` numbers per network: logits, properties or an embedding.

    `encoder` is any module with a `width`. Maps stacked state dicts to `(batch, num_values)`.
    """

    def __init__(self, encoder: nn.Module, num_values: int, dropout: float = 0.0):
        super().__init__()
        check_counts(num_values=num_values)
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.GELU(), nn.Dropout(dropout), nn.Linear(encoder.width, num_values)
        )

    def forward(self, state: Mapping[str, Tensor]) -> Float[Tensor, "batch values"]:
        return self.head(self.encoder(state))


class WeightsHead(nn.Module):
    """A head that edits networks, v - s dv, with a learned scale s per tensor.

    dv is linear in the `features` of each entry, in units of its tensor's standard deviation. Maps
    stacked state dicts `{name: (batch, *spec.shape)}` to state dicts, equivariantly if the features
    are. dv starts with a spread of about `init_scale`, so an untrained model nearly returns its
    input (with canonical signs if the encoder has them). `features` comes from `Encoder.features`.

    With `expansion` k > 1 (output-capacity expansion, Dayan et al. 2026: equal-size outputs cannot
    express all operators on functions) every hidden axis of the output is k times as long: `k`
    copies of each neuron with their outgoing weights divided by k, which is the same function,
    minus a separate dv for every entry. Neuron `i` becomes neurons `i k` to `i k + k - 1`. Raises
    ValueError if the space does not say which tensor computes an axis and which sums over it
    (`TensorSpec.roles`).
    """

    def __init__(self, features: nn.Module, expansion: int = 1, init_scale: float = 1e-4):
        super().__init__()
        check_counts(expansion=expansion)
        if expansion > 1:
            features.space.check_roles()
        self.space, self.expansion, self.features = features.space, expansion, features
        self.scale = nn.Parameter(torch.ones(len(self.space.tensors)))
        self.heads = nn.ModuleList(
            nn.Linear(
                features.channels,
                expansion ** len(spec.hidden),
                bias=not getattr(features, "is_odd", False),
            )
            for spec in self.space.tensors
        )
        for head in self.heads:
            nn.init.normal_(head.weight, std=init_scale)
            if head.bias is not None:
                nn.init.zeros_(head.bias)

    def forward(self, state: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "batch ..."]]:
        read, result = self.features.read, {}
        for spec, v, x, head, scale in zip(
            self.space.tensors,
            read.entries(state),
            self.features(state),
            self.heads,
            self.scale * read.standardize.std,
            strict=True,
        ):
            edited = v.unsqueeze(-1) - scale * head(x)
            result[spec.name] = stored(spec, self._expanded(spec, edited))
        return result

    def _expanded(
        self, spec: TensorSpec, copies: Float[Tensor, "batch ... copies"]
    ) -> Float[Tensor, "batch ..."]:
        """Move the copies into the hidden axes; divide by k for each that the tensor sums over."""
        k, hidden = (
            self.expansion,
            [dim for dim, axis in enumerate(spec.axes, start=1) if axis.hidden],
        )
        x = copies.unflatten(-1, (k,) * len(hidden)) if hidden else copies.squeeze(-1)
        # from (batch, axes..., k per hidden axis) to (batch, axes with k after each hidden one)
        order = [0]
        for dim in range(1, len(spec.axes) + 1):
            order += [dim, len(spec.axes) + 1 + hidden.index(dim)] if dim in hidden else [dim]
        sizes = [axis.size * k if axis.hidden else axis.size for axis in spec.axes]
        summed = [name for name in spec.hidden if spec.role(name) == "in"]
        return x.permute(order).reshape(x.shape[0], *sizes) / k ** len(summed)
