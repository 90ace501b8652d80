"""The images of a zoo of classifiers, for many networks at once, each with its own classes."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pipeline.archive.zoo import Zoo
from pipeline.config import ClassifierZooConfig
from pipeline.errors import InputError
from pipeline.zoos.splits import image_splits


class ClassImages(nn.Module):
    """Images by split and class, as non-persistent buffers.

    Raises InputError if they are not the zoo's, or if a class has none in a split.
    """

    def __init__(self, zoo: Zoo):
        super().__init__()
        signals, config = zoo.signals(), zoo.record.origin.config
        assert isinstance(config, ClassifierZooConfig)
        self.of_pairs, self.num_classes = config.classes == "pairs", len(signals.class_names)
        self.num_outputs = 2 if self.of_pairs else self.num_classes
        values = torch.from_numpy(signals.values).movedim(-1, 1)
        self.register_buffer("values", values, persistent=False)
        for split, images in image_splits(config, signals).items():
            labels = signals.labels[images]
            pools = [torch.from_numpy(images[labels == c]) for c in range(self.num_classes)]
            for name, pool in zip(signals.class_names, pools, strict=True):
                if not len(pool):
                    raise InputError(
                        f"zoo {zoo.folder} must have {split} images of each class, found none of "
                        f"{name!r}"
                    )
            sizes = torch.tensor([len(pool) for pool in pools])
            self.register_buffer(f"{split}_sizes", sizes, persistent=False)
            padded = pad_sequence(pools, batch_first=True)  # (classes, most)
            self.register_buffer(f"{split}_pools", padded, persistent=False)

    def classes(self, columns: Mapping[str, Any]) -> Int[Tensor, "networks outputs"]:
        """The class of each output of each network."""
        if self.of_pairs:
            return torch.stack([columns["class_0"], columns["class_1"]], 1)
        every = torch.arange(self.num_classes, device=self.values.device)
        return every.expand(len(columns["class_0"]), -1)

    def chosen(
        self, split: str, classes: Int[Tensor, "networks outputs"], share: Float[Tensor, "... _"]
    ) -> tuple[Int[Tensor, "networks images"], Int[Tensor, "networks images"]]:
        """Images of a split for each network, and their correct outputs.

        The outputs take turns; `share` `(networks, images)` in [0, 1) is the position among the
        split's images of the class.
        """
        outputs = torch.arange(share.shape[1], device=classes.device) % classes.shape[1]
        labels = classes[:, outputs]
        sizes, pools = (self.get_buffer(f"{split}_{name}") for name in ("sizes", "pools"))
        index = pools[labels, (share * sizes[labels]).long()]
        return index, outputs.expand_as(labels)

    def evenly(
        self, split: str, classes: Int[Tensor, "networks outputs"], count: int
    ) -> tuple[Int[Tensor, "networks images"], Int[Tensor, "networks images"]]:
        """At most `count` images of a split for each network, and their correct outputs.

        The same number for each of the network's classes, spread evenly over the class, no image
        twice.
        """
        smallest = int(self.get_buffer(f"{split}_sizes").min())
        each = max(1, min(count // self.num_outputs, smallest))
        share = (torch.arange(each, device=classes.device) + 0.5) / each
        share = share.repeat_interleave(self.num_outputs)
        return self.chosen(split, classes, share.expand(len(classes), -1))
