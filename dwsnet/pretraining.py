"""Heads and losses for learning without labels; the encoder's vector is the embedding."""

from collections.abc import Mapping, Sequence
from math import pi

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F

from dwsnet.encoders.encoder import features_of
from dwsnet.state import check_counts, read_state, write_state

State = Mapping[str, Tensor]


class ProjectionHead(nn.Module):
    """An encoder with a projector for a contrastive loss (SimCLR, Chen et al. 2020).

    Maps stacked state dicts to embeddings and projections, both `(batch, width)`.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        width = encoder.width
        self.encoder = encoder
        self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(
        self, state: State
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch width"]]:
        embedding = self.encoder(state)
        return embedding, self.projector(embedding)


def similarities(
    one: Float[Tensor, "pairs width"],
    other: Float[Tensor, "pairs width"],
    signal: Int64[Tensor, " pairs"],
    temperature: float,
) -> tuple[Float[Tensor, "anchors anchors"], Int64[Tensor, " anchors"]]:
    """Logits and labels whose cross-entropy is NT-Xent (Chen et al. 2020, equation 1).

    The `2 * pairs` anchors are `one`, then `other`; a logit is the cosine of two projections
    divided by the temperature, an anchor's label the index of its partner. Others of the same
    `signal` are not negatives: their logits, like an anchor's with itself, are -inf.
    """
    pairs, device = len(one), one.device
    anchors = F.normalize(torch.cat([one, other]), dim=1)
    partner = torch.arange(2 * pairs, device=device).roll(pairs)
    of = signal.repeat(2)
    hidden = of[:, None] == of[None]  # (anchors, anchors)
    hidden[torch.arange(2 * pairs, device=device), partner] = False
    logits = anchors @ anchors.t() / temperature
    return logits.masked_fill(hidden, -torch.inf), partner


def of_all_ranks(rows: Tensor) -> Tensor:
    """Concatenate the tensors of all ranks, which may differ in length; gradients flow back."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    own = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    most = int(max(counts))
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    return torch.cat([part[:count] for part, count in zip(all_gather(padded), counts, strict=True)])


class RenderingHead(nn.Module):
    """An encoder with a decoder that renders each network's signal from its vector at fixed points.

    The decoder is a coordinate MLP on sines and cosines of the coordinates, shifted and scaled in
    every hidden layer by the vector (FiLM, Perez et al. 2018). Maps stacked state dicts to
    embeddings `(batch, width)` and values `(batch, points, channels)` at `points` `(points, dims)`,
    coordinates in [-1, 1].
    """

    def __init__(
        self,
        encoder: nn.Module,
        points: Float[Tensor, "points dims"],
        channels: int,
        hidden: int = 64,
        num_layers: int = 3,
        frequencies: int = 4,
    ):
        super().__init__()
        check_counts(channels=channels, hidden=hidden, num_layers=num_layers)
        self.encoder = encoder
        scales = pi * 2.0 ** torch.arange(frequencies, device=points.device)
        phases = (points.unsqueeze(-1) * scales).flatten(1)  # (points, dims * frequencies)
        waves = torch.cat([points, phases.sin(), phases.cos()], 1)
        self.register_buffer("waves", waves, persistent=False)
        sizes = [waves.shape[1]] + [hidden] * num_layers
        self.layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        self.films = nn.ModuleList(nn.Linear(encoder.width, 2 * hidden) for _ in self.layers)
        self.out = nn.Linear(hidden, channels)

    def forward(
        self, state: State
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch points channels"]]:
        embedding, values = self.encoder(state), self.waves
        for layer, film in zip(self.layers, self.films, strict=True):
            scale, shift = film(embedding).unsqueeze(1).chunk(2, dim=-1)  # (batch, 1, hidden)
            values = F.gelu(layer(values) * (1 + scale) + shift)  # (batch, points, hidden)
        return embedding, self.out(values)


class EntriesHead(nn.Module):
    """An encoder with a head that predicts every entry from its features and the network's vector.

    Takes stacked state dicts and masks of `hidden` entries, `(batch, *spec.shape)` bool per tensor,
    which the encoder sees as 0. Returns embeddings `(batch, width)`, then predictions and truth of
    all entries, standardised by the train split, both `(batch, *spec.shape)` per tensor. If the
    encoder makes signs canonical, the visible entries decide the signs of the truth, which
    therefore reveal nothing of the hidden ones. Raises ValueError if the encoder has no features of
    entries.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        features = features_of(encoder)
        self.encoder, self.space = encoder, features.space
        self.vector = nn.Linear(encoder.width, features.channels)
        self.outs = nn.ModuleList(nn.Linear(features.channels, 1) for _ in self.space.tensors)

    def forward(
        self, state: State, hidden: Sequence[Bool[Tensor, "batch ..."]] | None = None
    ) -> tuple[Float[Tensor, "batch width"], tuple[Tensor, ...], tuple[Tensor, ...]]:
        features, seen = self.encoder.features(), state
        if hidden is not None:
            tensors = zip(read_state(self.space, state), hidden, strict=True)
            seen = write_state(self.space, [x.masked_fill(mask, 0) for x, mask in tensors])
        truth = features.read.standardize(features.read.entries(state, seen))
        embedding = self.encoder(seen)
        vector = self.vector(embedding)
        predictions = tuple(
            out(F.gelu(x + vector.view(len(x), *[1] * (x.ndim - 2), -1))).squeeze(-1)
            for out, x in zip(self.outs, features(seen), strict=True)
        )
        return embedding, predictions, truth
