"""Models that predict numbers: an encoder with a head, and gradient boosting on statistics."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.baselines import BoostedStatistics
from dwsnet.encoders import Encoder
from dwsnet.weight_space import WeightSpace
from pipeline.tasks.inputs import encode, width_of

Columns = Mapping[str, Any]
SURE = 1e-6
"""Shares are clamped to [SURE, 1 - SURE] before the logit."""


class Targets(nn.Module):
    """Converts a model's outputs, `(batch, targets)` of unit scale, to catalog values and back.

    Outputs are standardised targets with 'mse', logits of shares with 'bce'.
    """

    def __init__(self, prepared: Mapping[str, Any], objective: Literal["mse", "bce"]):
        super().__init__()
        self.names, self.objective = tuple(prepared["targets"]), objective
        facts = prepared["targets"].values()
        for name in ("mean", "std"):
            values = torch.tensor([target[name] for target in facts], dtype=torch.float32)
            self.register_buffer(name, values, persistent=False)

    def read(self, columns: Columns) -> Tensor:
        """`(batch, targets)` float32; NaN if a target is not known."""
        return torch.stack([columns[name].float() for name in self.names], 1)

    def values(self, outputs: Tensor) -> Tensor:
        if self.objective == "bce":
            return outputs.sigmoid()
        return self.mean + self.std * outputs

    def outputs(self, values: Tensor) -> Tensor:
        """The model outputs that stand for these values."""
        if self.objective == "bce":
            return values.clamp(SURE, 1 - SURE).logit()
        return (values - self.mean) / self.std

    def losses(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """`(batch, targets)`; 0 if the truth is not known."""
        known = truth.isfinite()
        truth = torch.where(known, truth, self.mean)
        if self.objective == "bce":
            losses = F.binary_cross_entropy_with_logits(outputs, truth, reduction="none")
        else:
            losses = (outputs - (truth - self.mean) / self.std).square()
        return torch.where(known, losses, 0)


class Regressor(nn.Module):
    """An encoder, plus a linear map of the other inputs, then GELU and a linear layer.

    Maps stacked state dicts and catalog columns to `(batch, targets)` of unit scale.
    """

    def __init__(self, encoder: Encoder, targets: Targets, inputs: Sequence[Mapping[str, Any]]):
        super().__init__()
        self.encoder, self.targets, self.inputs = encoder, targets, tuple(inputs)
        self.move = nn.Linear(width_of(inputs), encoder.width) if inputs else None
        self.head = nn.Sequential(nn.GELU(), nn.Linear(encoder.width, len(targets.names)))

    def forward(self, state: Mapping[str, Tensor], columns: Columns) -> Tensor:
        vector = self.encoder(state)  # (batch, width)
        if self.move is not None:
            vector = vector + self.move(encode(self.inputs, columns, vector))
        return self.head(vector)  # (batch, targets)


class BoostedRegressor(nn.Module):
    """Gradient boosting on statistics of the tensors and on the inputs, one model per target.

    Called like a `Regressor`, but has neither parameters nor a state dict.
    """

    def __init__(self, space: WeightSpace, targets: Targets, inputs: Sequence[Mapping[str, Any]]):
        super().__init__()
        self.targets, self.inputs = targets, tuple(inputs)
        self.boosted = [BoostedStatistics(space, "value") for _ in targets.names]

    def fit(self, networks: Iterable[tuple[Mapping[str, Tensor], Columns]]) -> "BoostedRegressor":
        """Fit to stacked state dicts with their columns, on members whose target is known."""
        states, columns = zip(*networks, strict=True)
        state = {name: torch.cat([one[name] for one in states]) for name in states[0]}
        truths = [self.targets.read(one) for one in columns]
        inputs = [encode(self.inputs, *known) for known in zip(columns, truths, strict=True)]
        truth, beside = torch.cat(truths), torch.cat(inputs)  # members, targets; members, inputs
        for boosted, values in zip(self.boosted, truth.T, strict=True):
            known = values.isfinite()
            some = {name: tensor[known] for name, tensor in state.items()}
            boosted.fit(some, values[known].numpy(), beside[known].numpy())
        return self

    def forward(self, state: Mapping[str, Tensor], columns: Columns) -> Tensor:
        beside = encode(self.inputs, columns, next(iter(state.values()))).numpy()
        values = [torch.from_numpy(one.predict(state, beside)).float() for one in self.boosted]
        return self.targets.outputs(torch.stack(values, 1))  # (batch, targets)
