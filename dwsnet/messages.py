"""Parts of message passing along weights: embeddings of edges, messages and node updates."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.entries import FREQUENCY


class Embedding(nn.Module):
    """A linear map of numbers `(..., positions)` and their sines to `(..., channels)`.

    If not `odd`, it also has cosines and a bias.
    """

    def __init__(self, positions: int, num_frequencies: int, channels: int, odd: bool):
        super().__init__()
        self.odd, self.frequencies = odd, nn.Parameter(FREQUENCY * torch.randn(num_frequencies))
        width = 1 + (1 if odd else 2) * num_frequencies
        self.linear = nn.Linear(positions * width, channels, bias=not odd)

    def waves(self, x: Float[Tensor, "..."]) -> Float[Tensor, "... width"]:
        x = x.unsqueeze(-1)  # (..., 1)
        phase = x * self.frequencies  # (..., frequencies)
        return torch.cat([x, phase.sin()] if self.odd else [x, phase.sin(), phase.cos()], -1)

    def forward(self, x: Float[Tensor, "... positions"]) -> Float[Tensor, "... channels"]:
        return self.linear(self.waves(x).flatten(-2))


class Mixer(nn.Module):
    """Two layers on normalised features; with `odd`, an odd function of the features.

    The odd function of z is a linear map of z, gated by a function of |z|.
    """

    def __init__(self, channels: int, outputs: int, odd: bool):
        super().__init__()
        self.norm = nn.RMSNorm(channels, eps=1e-5) if odd else nn.LayerNorm(channels)
        self.gate = (
            nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels))
            if odd
            else None
        )
        self.inner = nn.Linear(channels, channels, bias=not odd)
        self.outer = nn.Linear(channels, outputs, bias=not odd)

    def forward(self, x: Float[Tensor, "... channels"]) -> Float[Tensor, "... outputs"]:
        z = self.norm(x)
        inner = self.inner(z)
        return self.outer(
            F.gelu(inner) if self.gate is None else inner * self.gate(z.abs()).sigmoid()
        )


class Sweep(nn.Module):
    """Send messages along edges to another axis, the sum over maps k of E_k h A_k, and update it.

    Channels are mixed on the side that has fewer nodes, before sending or after receiving.
    """

    def __init__(self, senders: int, receivers: int, channels: int, maps: int, odd: bool):
        super().__init__()
        self.at_senders = senders <= receivers
        before, after = (1, maps) if self.at_senders else (maps, 1)
        self.mix = nn.Linear(channels * before, channels * after, bias=False)
        bound = channels**-0.5
        nn.init.uniform_(self.mix.weight, -bound, bound)
        self.update = Mixer(2 * channels, channels, odd)
        self.scale = 1 / math.sqrt(senders * maps)

    def edges(
        self, values: Float[Tensor, "batch receivers senders maps"]
    ) -> Float[Tensor, "batch rows columns"]:
        """Edges as `forward` takes them: the matrices of all maps beside or below each other."""
        if self.at_senders:
            return values.flatten(2)  # (batch, receivers, senders * maps)
        return values.transpose(2, 3).flatten(1, 2)  # (batch, receivers * maps, senders)

    def forward(
        self,
        edges: Float[Tensor, "batch rows columns"],
        sender: Float[Tensor, "batch senders channels"],
        receiver: Float[Tensor, "batch receivers channels"],
    ) -> Float[Tensor, "batch receivers channels"]:
        batch, nodes, channels = receiver.shape
        if self.at_senders:
            message = edges @ self.mix(sender).reshape(batch, -1, channels)
        else:
            message = self.mix((edges @ sender).reshape(batch, nodes, -1))
        return receiver + self.update(torch.cat([message * self.scale, receiver], -1))
