"""A zoo in a plain PyTorch training loop: no Ray, no DeepSpeed, no Prefect.

dwszoo zoo build digits --out zoos/digits
python examples/zoo_in_pytorch.py zoos/digits
"""

import sys

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dwsnet import DWSNetClassifier
from pipeline.archive import Zoo


def main(folder: str, num_epochs: int = 3) -> float:
    """Trains a DWSNet to tell the class of each member; returns its accuracy on the test split."""
    zoo = Zoo.open(folder)
    train = zoo.dataset("train", ["label"])

    classes = len(zoo.record.class_names)
    model = DWSNetClassifier(zoo.space, classes, channels=16, num_layers=3, head_width=64)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for epoch in range(num_epochs):
        for state, label in DataLoader(train, batch_size=64, shuffle=True):
            loss = F.cross_entropy(model(state), label)  # of {"layers.0.weight": (64, 16, 2), ...}
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: accuracy {accuracy(model, zoo):.1%}")
    return accuracy(model, zoo)


@torch.no_grad()
def accuracy(model: nn.Module, zoo: Zoo) -> float:
    model.eval()
    test = DataLoader(zoo.dataset("test", ["label"]), batch_size=256)
    right = torch.cat([model(state).argmax(1) == label for state, label in test])
    model.train()
    return right.float().mean().item()


if __name__ == "__main__":
    main(sys.argv[1])
