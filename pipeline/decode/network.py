"""One member of a zoo as a torch module."""

from collections.abc import Mapping

from torch import Tensor, nn

from pipeline.decode.decoder import Decoder


class Network(nn.Module):
    """A single member: takes coordinates `(..., dims)`, returns values `(..., channels)`.

    A classifier takes images `(batch, channels, height, width)` in [0, 1] and returns logits
    `(batch, classes)`. Its state dict is the member's.
    """

    def __init__(
        self, decoder: Decoder, state: Mapping[str, Tensor], activation: str | None = None
    ):
        super().__init__()
        self._decoder, self._activation = decoder, activation
        for name, tensor in state.items():
            self._place(name, nn.Parameter(tensor.clone()))

    def _place(self, name: str, parameter: nn.Parameter):
        """Register a parameter under its name in the archive: `layers.0.weight`."""
        parent: nn.Module = self
        *path, last = name.split(".")
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.register_parameter(last, parameter)

    def forward(self, inputs: Tensor) -> Tensor:
        state = {name: parameter.unsqueeze(0) for name, parameter in self.named_parameters()}
        if self._decoder.image is not None:
            return self._decoder(state, inputs, [self._activation])[0]
        values = self._decoder(state, inputs.reshape(-1, inputs.shape[-1]), [self._activation])[0]
        return values.reshape(*inputs.shape[:-1], -1)
