"""Run classifiers on images of two domains: the source, unchanged, and the target, corrupted."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.archive.shard import Block
from pipeline.archive.zoo import Zoo
from pipeline.decode import Decoder
from pipeline.fit import seeds
from pipeline.tasks.class_images import ClassImages
from pipeline.tasks.corruption import corrupt
from pipeline.tasks.task import Batch

SCORES = "loss", "target_accuracy", "source_accuracy"
IMAGES_AT_ONCE = 4096
"""Images that are corrupted and classified together in scoring."""
FINETUNING = 1
"""Purpose of the keys of the images for fine-tuning."""


@dataclass(frozen=True)
class Trial:
    """Networks, and the images to score them on."""

    batch: Batch
    source: Tensor
    """`(networks, images, channels, height, width)`, unchanged."""
    target: Tensor
    """The same images, corrupted."""
    outputs: Tensor
    """`(networks, images)` int64: the correct output."""


class Domains(nn.Module):
    """The images of a zoo in both domains, as non-persistent buffers, and its members run on them.

    The corruption of an image is a function of (seed, network, image), where a network is its row
    of the catalog; in training, of (key, position).
    """

    def __init__(self, zoo: Zoo, corruptions: Sequence[str], seed: int):
        super().__init__()
        self.images = ClassImages(zoo)
        self.decode = Decoder(zoo.record.decode, zoo.space, f"zoo {zoo.folder}")
        self.corruptions, self.seed = corruptions, seed

    def training_losses(self, batch: Batch, state: Block, keys: np.ndarray, count: int) -> Tensor:
        """`(batch,)` cross-entropy on `count` train images of the target domain, drawn by key."""
        share = torch.from_numpy(seeds.uniform(keys, count)) / 2 + 0.5
        classes = self.images.classes(batch.columns)
        index, outputs = self.images.chosen("train", classes, share.to(classes.device))
        keys = seeds.derive(keys[:, None], np.arange(count))
        target = self.corrupted(self.images.values[index], keys)
        logits = self.decode(state, target, batch.columns["activation"])
        return F.cross_entropy(logits.mT, outputs, reduction="none").mean(1)

    def corrupted(self, images: Tensor, keys: np.ndarray) -> Tensor:
        """Corrupt images `(networks, images, channels, height, width)`.

        `keys` is `(networks, images)`.
        """
        corrupted = corrupt(images.flatten(0, 1), keys.flatten(), self.corruptions)
        return corrupted.unflatten(0, images.shape[:2])

    def trials(self, batch: Batch, count: int) -> Iterator[Trial]:
        """Yield the networks of a batch, all of one split, in parts.

        Each network has at most `count` images of that split.
        """
        (split,) = set(batch.columns["split"])
        classes = self.images.classes(batch.columns)
        index, outputs = self.images.evenly(split, classes, count)
        networks = batch.positions.cpu().numpy()[:, None]
        keys = seeds.member_keys(self.seed, networks, index.cpu().numpy())
        for part in torch.arange(len(batch)).split(max(1, IMAGES_AT_ONCE // index.shape[1])):
            source = self.images.values[index[part]]
            target = self.corrupted(source, keys[part.numpy()])
            yield Trial(batch.take(part.to(index.device)), source, target, outputs[part])

    def scores(self, trial: Trial, states: Mapping[str, Block]) -> dict[str, Tensor]:
        """`(networks,)` each: scores of the networks in several states, named by state and score.

        Cross-entropy in the target domain, accuracy in the target and in the source domain. A
        network with non-finite outputs is wrong, with the cross-entropy of a uniform guess.
        """
        result = {}
        for name, state in states.items():
            target, source = (
                self.decode(state, images, trial.batch.columns["activation"])
                for images in (trial.target, trial.source)
            )
            losses = F.cross_entropy(target.mT, trial.outputs, reduction="none").mean(1)
            losses = torch.where(losses.isfinite(), losses, math.log(target.shape[-1]))
            accuracies = (
                ((logits.argmax(-1) == trial.outputs) & logits.isfinite().all(-1)).float().mean(1)
                for logits in (target, source)
            )
            for score, values in zip(SCORES, (losses, *accuracies), strict=True):
                result[f"{name}{score}"] = values
        return result

    @torch.enable_grad()
    def finetuned(
        self, batch: Batch, steps: Sequence[int], rate: float, count: int
    ) -> Iterator[tuple[int, Block]]:
        """Yield (steps, networks) for each of `steps`: the networks after that many steps of Adam.

        Each network is trained alone, on `count` train images of the target domain per step.
        """
        state = {name: tensor.clone().requires_grad_() for name, tensor in batch.state.items()}
        optimizer = torch.optim.Adam(state.values(), rate)
        networks = seeds.member_keys(self.seed, batch.positions.cpu().numpy(), FINETUNING)
        for step in range(1, 1 + max(steps, default=0)):
            losses = self.training_losses(batch, state, seeds.derive(networks, step), count)
            optimizer.zero_grad()
            losses.sum().backward()  # each network gets the gradient of its own loss
            optimizer.step()
            if step in steps:
                yield step, {name: tensor.detach().clone() for name, tensor in state.items()}
