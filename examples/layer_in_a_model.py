"""Equivariant layers in a model of your own: which of two networks has the larger weights?

python examples/layer_in_a_model.py
"""

import torch
from torch import Tensor, nn

from dwsnet import EquivariantLinear, InvariantLinear, WeightSpace, permute, random_permutation


class Size(nn.Module):
    """From the weights of an MLP 3-16-16-1 to one number, whatever the order of its neurons."""

    def __init__(self, space: WeightSpace, channels: int = 8):
        super().__init__()
        self.space = space
        self.first = EquivariantLinear(space, 1, channels)
        self.second = InvariantLinear(space, channels, 1)

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        tensors = [state[spec.name].unsqueeze(-1) for spec in self.space.tensors]
        features = tuple(x.relu() for x in self.first(tuple(tensors)))  # (batch, *shape, channels)
        return self.second(features).squeeze(-1)  # (batch,)


def main(num_steps: int = 200) -> float:
    """Trains on random networks; returns the last loss."""
    torch.manual_seed(0)
    space = WeightSpace.mlp((3, 16, 16, 1))
    model = Size(space)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(num_steps):
        scale = torch.rand(32)
        state = {x.name: scale.view(32, *[1] * len(x.shape)) * torch.randn(32, *x.shape)
                 for x in space.tensors}  # fmt: skip
        loss = (model(state) - scale).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    tensors = tuple(state[spec.name] for spec in space.tensors)
    other = permute(space, tensors, random_permutation(space, torch.Generator()))
    names = [spec.name for spec in space.tensors]
    torch.testing.assert_close(model(state), model(dict(zip(names, other, strict=True))))
    return loss.item()


if __name__ == "__main__":
    print(f"mean squared error {main():.4f}, the mean has {1 / 12:.4f}")
