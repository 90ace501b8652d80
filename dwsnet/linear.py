"""The equivariant and the invariant affine layer, from one incidence rule.

Navon et al. 2023 (section 5) characterise every affine map between weight spaces that commutes with
hidden permutations, block by block. All blocks follow from one rule: pick a set S of hidden axes;
average every tensor that carries all of S over its other hidden axes; map the averages of all these
tensors to all of them by one linear map (which mixes channels and fixed axes); and repeat the
result along the averaged axes. Summed over all S this gives `2^(shared hidden axes) x fixed entries
in x fixed entries out` free parameters for each pair of tensors and of channels, which is the
dimension of the space of equivariant maps.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dwsnet import affine, kernel
from dwsnet.affine import Plan
from dwsnet.autocast import cast, no_autocast
from dwsnet.equivariant_map import apply_scatter, gather
from dwsnet.incidence import Incidence, adjacent, mean
from dwsnet.pooling import PooledLinear, from_means, pooling_of
from dwsnet.state import check_counts, check_features
from dwsnet.weight_space import WeightSpace


class AxisSetLayer(nn.Module):
    """Base of layers with a weight `(columns out, columns in)` per axis set, a bias per tensor."""

    def reset_parameters(self):
        """He initialisation: unit-scale inputs give outputs of variance 2, unit scale after a ReLU.

        The 2^(hidden axes) terms that add up in a tensor contribute equally; sums start as means.
        """
        self.fill_joined()
        for s, weight in enumerate(self.weights):
            nn.init.normal_(weight, std=(2 / weight.shape[1]) ** 0.5)
            with torch.no_grad():
                if self.joined is not None and s == 0:
                    weight *= self.joined * self.joined.double().mean(1, keepdim=True) ** -0.5
                rows = weight.split(self.incidence.widths(s, self.out_channels))
                for i, some in zip(self.incidence.carriers[s], rows, strict=True):
                    some *= 2 ** (-len(self.space.tensors[i].hidden) / 2)
                if self.pooling == "sum":
                    of = self.incidence, self.in_channels, s
                    weight.copy_(from_means(weight, *of, power=-1))
        for bias in self.biases:
            nn.init.zeros_(bias)

    def tensors(self) -> list[Tensor]:
        """The weights of all axis sets, for means even if sums are pooled, and the joint bias."""
        weights = [weight for weight in self.weights]
        if self.joined is not None:
            weights[0] = weights[0] * self.joined
        if self.pooling == "sum":
            of = self.incidence, self.in_channels
            weights = [from_means(weight, *of, s) for s, weight in enumerate(weights)]
        return [*weights, torch.cat([bias for bias in self.biases])]

    def join(self, diagonal: bool):
        """If `diagonal`, let the empty axis set map only between tensors that share an axis.

        Its other weights are 0.
        """
        self.diagonal = diagonal
        self.register_buffer("joined", None, persistent=False)
        self.register_load_state_dict_post_hook(AxisSetLayer.fill_joined)

    def fill_joined(self, *_):
        """Fill the mask of the empty set's weights, which is in no state dict."""
        if not self.diagonal:
            return
        joined = torch.tensor(adjacent(self.space), device=self.weights[0].device)
        for dim, channels in enumerate((self.out_channels, self.in_channels)):
            widths = self.incidence.widths(0, channels)
            counts = torch.tensor(widths, device=joined.device)
            joined = joined.repeat_interleave(counts, dim, output_size=sum(widths))
        self.joined = joined

    def extra_repr(self) -> str:
        return (
            f"{len(self.space.tensors)} tensors, {self.in_channels} -> {self.out_channels} channels"
        )


class EquivariantLinear(AxisSetLayer):
    """The general affine map between features over `space` that commutes with hidden permutations.

    Takes and returns a tuple of `(batch, *spec.shape, channels)`. A `pooling` other than "mean"
    ("sum", "max", "attention") replaces the averages: still equivariant, with the same parameters,
    but "max" and "attention" are not linear. `diagonal` leaves out the maps between tensors without
    a common axis, like the official option.
    """

    def __init__(
        self,
        space: WeightSpace,
        in_channels: int,
        out_channels: int,
        pooling: str = "mean",
        diagonal: bool = False,
    ):
        super().__init__()
        check_counts(in_channels=in_channels, out_channels=out_channels)
        self.space, self.in_channels, self.out_channels = space, in_channels, out_channels
        self.pooling = pooling
        self.incidence = Incidence(space)
        self.pool = pooling_of(pooling, self.incidence, in_channels)
        self.weights = nn.ParameterList(
            torch.empty(
                sum(self.incidence.widths(s, out_channels)),
                sum(self.incidence.widths(s, in_channels)),
            )
            for s in range(len(self.incidence.axis_sets))
        )
        self.biases = nn.ParameterList(
            torch.empty(spec.num_fixed * out_channels) for spec in space.tensors
        )
        self.join(diagonal)
        self.reset_parameters()

    def forward(
        self, features: Sequence[Float[Tensor, "batch ... {self.in_channels}"]]
    ) -> tuple[Float[Tensor, "batch ... {self.out_channels}"], ...]:
        check_features(self.space, features, self.in_channels, self.weights[0])
        folded, parameters = cast(self.incidence.fold(features), self.tensors())
        with no_autocast(folded[0].device.type):
            outputs = self.map(folded, parameters)
        return self.incidence.unfold(outputs)

    def map(self, folded: Sequence[Tensor], parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.pool is not mean:
            gathered = gather(self.incidence, self.pool, self.in_channels, folded)
            return apply_scatter(self.incidence, self.out_channels, *gathered, *parameters)
        wanted = {self.out_channels}
        if any(x.requires_grad for x in folded):
            wanted.add(self.in_channels)
        widths = [width for size in wanted for width in self.incidence.columns(size)]
        compiled = kernel.takes(folded, widths)
        plan = Plan(self.incidence, self.in_channels, self.out_channels, compiled)
        return affine.apply(plan, *folded, *parameters)


class InvariantLinear(nn.Module):
    """The general affine map from features to a vector, invariant to hidden permutations.

    Maps a tuple of `(batch, *spec.shape, in_channels)` to `(batch, out_features)`. A `pooling`
    other than "mean" replaces the averages over all neurons, as in `EquivariantLinear`.
    """

    def __init__(
        self, space: WeightSpace, in_channels: int, out_features: int, pooling: str = "mean"
    ):
        super().__init__()
        check_counts(in_channels=in_channels, out_features=out_features)
        self.space, self.in_channels, self.incidence = space, in_channels, Incidence(space)
        self.pool = pooling_of(pooling, self.incidence, in_channels)
        self.linear = PooledLinear(self.incidence, in_channels, 0, out_features, pooling)

    def forward(
        self, features: Sequence[Float[Tensor, "batch ... {self.in_channels}"]]
    ) -> Float[Tensor, "batch {self.linear.out_features}"]:
        check_features(self.space, features, self.in_channels, self.linear.weight)
        everything, *_ = gather(
            self.incidence, self.pool, self.in_channels, self.incidence.fold(features)
        )
        return self.linear(everything)
