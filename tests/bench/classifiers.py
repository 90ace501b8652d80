"""Speed and accuracy of training classifiers: `python -m tests.bench.classifiers`.

The same runs on one thread each: stacked, and one after another as a torch module with torch.optim
(the reference). Both see the same images in the same order from the same initial weights, without
dropout, so their accuracies agree up to the growth of rounding errors. An MLP and a CNN on
scikit-learn's digits at 28x28, all activations, all optimizers. Seconds are CPU time, because
wall-clock time means little on a shared machine.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from dwsnet.state import unpack
from dwsnet.weight_space import WeightSpace
from pipeline.config import ClassifierZooConfig, HyperparametersConfig
from pipeline.fit.classifiers import train_runs
from pipeline.fit.dataset import ImageDataset, epoch_order, order_keys
from pipeline.fit.runs import Runs, draw_runs, initial_rows
from pipeline.fit.stack import Stack

HYPERPARAMETERS = HyperparametersConfig(
    activation=("relu", "tanh", "sigmoid", "gelu", "sine"),
    optimizer=("sgd", "momentum", "adam", "rmsprop"),
    learning_rate="loguniform(1e-3, 1e-2)",
    weight_decay=(1e-5,),
)
SPACES = {
    "MLP 784-32-10": WeightSpace.mlp((784, 32, 10)),
    "CNN 16-16-16": WeightSpace.cnn(1, (16, 16, 16), 3, 10),
}
CASES = [
    ("MLP 784-32-10", 32, 192, 6),
    ("MLP 784-32-10", 128, 192, 6),
    ("CNN 16-16-16", 32, 48, 2),
    ("CNN 16-16-16", 128, 48, 4),
]
"""Architecture, batch size, runs, epochs."""


class Sine(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.sin()


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "sine": Sine,
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters, **options: torch.optim.SGD(parameters, momentum=0.9, **options),
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
}


def digits() -> ImageDataset:
    """1,397 images for training and 400 for testing."""
    images, labels = load_digits(return_X_y=True)
    large = functional.interpolate(
        torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16, size=(28, 28), mode="bilinear"
    )
    splits = {
        "train": np.arange(1397),
        "validation": np.arange(1397, 1400),
        "test": np.arange(1397, 1797),
    }
    return ImageDataset((large - 0.3) / 0.37, labels.astype(np.int64), splits, 10, 400)


def network(space: WeightSpace, row: Tensor, activation: str) -> nn.Module:
    tensors = [tensor[0] for tensor in unpack(space, row[None]).values()]
    modules: list[nn.Module] = [] if tensors[0].ndim == 4 else [nn.Flatten()]
    for weight, bias in zip(tensors[::2], tensors[1::2], strict=True):
        size_out, size_in, *kernel = weight.shape
        make = partial(nn.Conv2d, kernel_size=kernel, stride=2, padding=1) if kernel else nn.Linear
        layer = make(size_in, size_out)
        layer.load_state_dict({"weight": weight, "bias": bias})
        modules += [layer, ACTIVATIONS[activation]()]
    modules.pop()
    if tensors[0].ndim == 4:
        modules[-1:-1] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*modules)


def one_by_one(
    space: WeightSpace, dataset: ImageDataset, runs: Runs, epochs: int, batch_size: int
) -> np.ndarray:
    """Train a PyTorch module with an optimizer for each run; returns test accuracies."""
    rows, keys, labels = (
        initial_rows(space, runs),
        order_keys(runs),
        torch.from_numpy(dataset.labels),
    )
    accuracies = []
    for i, pool in enumerate(dataset.pools("train", runs)):
        model = network(space, rows[i], runs["activation"][i])
        options = {
            "lr": float(runs["learning_rate"][i]),
            "weight_decay": float(runs["weight_decay"][i]),
        }
        optimizer = OPTIMIZERS[runs["optimizer"][i]](model.parameters(), **options)
        for epoch in range(epochs):
            for batch in torch.from_numpy(epoch_order(pool, keys[i], epoch, batch_size)).split(
                batch_size
            ):
                optimizer.zero_grad()
                functional.cross_entropy(model(dataset.images[batch]), labels[batch]).backward()
                optimizer.step()
        test = dataset.splits["test"]
        with torch.no_grad():
            accuracies.append(
                (model(dataset.images[test]).argmax(1) == labels[test]).float().mean().item()
            )
    return np.array(accuracies)


def stacked(
    space: WeightSpace, dataset: ImageDataset, runs: Runs, epochs: int, batch_size: int
) -> np.ndarray:
    stack = Stack(space, 2)
    dataset = replace(dataset, images=stack.prepare(dataset.images))
    return train_runs(stack, dataset, runs, [[epochs]] * len(runs["run"]), batch_size).scores[
        "test_accuracy"
    ]


def main():
    torch.set_num_threads(1)
    dataset = digits()
    print("architecture    batch  contender   runs   steps/s  runs/s  accuracy  ratio")
    for name, batch_size, num_runs, epochs in CASES:
        config = ClassifierZooConfig(hyperparameters=HYPERPARAMETERS)
        steps, reference = epochs * (len(dataset.splits["train"]) // batch_size), None
        for contender, count in ((one_by_one, num_runs // 12), (stacked, num_runs)):
            runs = draw_runs(config, np.arange(count), 10)
            contender(SPACES[name], dataset, draw_runs(config, np.arange(2), 10), 1, batch_size)
            start = time.process_time()
            accuracy = contender(SPACES[name], dataset, runs, epochs, batch_size)
            rate = count * steps / (time.process_time() - start)
            reference = reference or rate
            compared = 100 * accuracy[: num_runs // 12].mean()
            print(
                f"{name:15} {batch_size:5}  {contender.__name__:10} {count:5} {rate:9,.0f} "
                f"{rate / steps:7.2f} {compared:8.2f}% {rate / reference:6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
