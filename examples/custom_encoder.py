"""An encoder of your own: DeepSets over the neurons of the first hidden layer.

In the folder examples/:

dwszoo run digits --set training.encoder.kind=custom_encoder:Neurons --out runs/neurons
dwszoo evaluate runs/neurons --trust custom_encoder
"""

from torch import Tensor, cat, nn


class Neurons(nn.Module):
    """Each neuron's incoming weights and bias through an MLP, then the mean over neurons."""

    def __init__(self, space, width: int = 64):
        super().__init__()
        self.width = width
        weight, bias = space.tensors[:2]  # (neurons, inputs), (neurons,)
        self.names = weight.name, bias.name
        self.neuron = nn.Sequential(
            nn.Linear(weight.shape[1] + 1, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        weight, bias = (state[name] for name in self.names)
        neurons = cat([weight, bias.unsqueeze(-1)], -1)  # (batch, neurons, inputs + 1)
        return self.neuron(neurons).mean(1)  # (batch, width)
