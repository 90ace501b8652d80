"""Functional reconstruction: a decoder renders a network's signal from its vector alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from pipeline.errors import InputError
from pipeline.tasks.embedding import EmbeddingTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from dwsnet.pretraining import RenderingHead
    from pipeline.archive.zoo import Zoo
    from pipeline.tasks.task import Batch


class Reconstruction(EmbeddingTask):
    kind: Literal["reconstruction"] = "reconstruction"
    """Render what a network renders from its vector alone, through a decoder that all networks
    share. The target is the network's own rendering, so the signals are not needed."""
    points: PositiveInt = 256
    """About how many points to render, on a regular grid over the coordinates."""
    decoder_width: PositiveInt = 64
    """Width of the decoder's hidden layers."""
    decoder_layers: PositiveInt = 3
    """Hidden layers of the decoder."""

    def check(self, zoo: Zoo) -> None:
        from pipeline.decode import Decoder

        contract = zoo.record.decode
        if contract.image is not None:
            raise InputError(
                f"zoo {zoo.folder} must have INRs for task 'reconstruction', which renders them, "
                "found classifiers"
            )
        Decoder(contract, zoo.space, f"zoo {zoo.folder}")

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        """Numbers of coordinates that INRs take and of values that they return."""
        num_channels = zoo.space.tensors[-1].shape[0]
        return {"num_dims": zoo.record.decode.num_dims(zoo.space), "num_channels": num_channels}

    def build(self, encoder: nn.Module, prepared: Mapping[str, Any]) -> RenderingHead:
        import torch

        from dwsnet.pretraining import RenderingHead
        from pipeline.signals import coordinates

        points = torch.from_numpy(coordinates(self.grid(prepared["num_dims"])))
        sizes = self.decoder_width, self.decoder_layers
        return RenderingHead(encoder, points, prepared["num_channels"], *sizes)

    def grid(self, num_dims: int) -> tuple[int, ...]:
        """Points along each axis."""
        return (max(2, round(self.points ** (1 / num_dims))),) * num_dims

    def attach(self, model: Any, zoo: Zoo) -> None:
        """Attach the decoder of the zoo's members, and the points in their coordinates."""
        from pipeline.decode import Decoder, coordinates_of

        contract = zoo.record.decode
        points = coordinates_of(contract, self.grid(contract.num_dims(zoo.space)))
        model.decode = Decoder(contract, zoo.space, f"zoo {zoo.folder}")
        model.register_buffer("points", points, persistent=False)

    def loss(self, model: nn.Module, batch: Batch, keys: Tensor) -> Tensor:
        return (model(batch.state)[1] - self.truth(model, batch)).square().mean()

    def sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Sums for the errors of the model and of the mean rendering of the split."""
        values, truth = model(batch.state)[1].double(), self.truth(model, batch).double()
        return {
            "members": truth.new_tensor(len(truth)),
            "errors": (values - truth).square().mean((1, 2)).sum(),
            "squares": truth.square().mean((1, 2)).sum(),
            "values": truth.sum(0),
        }

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean squared error of the model and of the mean rendering of the split."""
        members = sums["members"]
        mean = sums["values"] / members
        trivial = sums["squares"] / members - mean.square().mean()
        return {"loss": (sums["errors"] / members).item(), "trivial_loss": trivial.item()}

    def truth(self, model: nn.Module, batch: Batch) -> Tensor:
        """`(batch, points, channels)`: what the members render."""
        return model.decode(batch.state, model.points)
