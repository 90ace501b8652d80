"""Which class was the signal of? The label of the source, from the weights alone."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.baselines import FlatMLPClassifier
from dwsnet.models import DWSNetClassifier, num_parameters
from dwsnet.weight_space import WeightSpace
from pipeline.archive.zoo import Zoo
from pipeline.config import ModelConfig
from pipeline.errors import InputError


def build_model(
    config: ModelConfig, space: WeightSpace, num_classes: int, statistics: Mapping[str, Mapping[str, float]] | None = None
) -> nn.Module:
    """A classifier of stacked state dicts; `statistics` standardise its input (a loaded state dict brings its own).

    The flat baseline is as large as the DWSNet of the same configuration.
    """
    model = DWSNetClassifier(
        space,
        num_classes,
        channels=config.channels,
        num_layers=config.num_layers,
        head_width=config.head_width,
        dropout=config.dropout,
        canonical_signs=config.canonical_signs,
    )
    if config.kind == "mlp":
        model = FlatMLPClassifier(space, num_classes, num_parameters(model), config.canonical_signs)
    if statistics is not None:
        model.read.standardize.set(statistics)
    return model


def require_classes(zoo: Zoo):
    """Raises InputError where a zoo has no classes to learn, or no members to choose the best epoch by."""
    if not zoo.record.signals.class_names or zoo.catalog["label"].null_count:
        raise InputError(f"zoo {zoo.folder} has no classes to learn: its members must have labels, whole numbers or names")
    if not len(zoo.members("validation")):
        raise InputError(f"zoo {zoo.folder} must have members in its validation split, found none")


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy."""
    return F.cross_entropy(logits, labels)


def totals(logits: Tensor, labels: Tensor) -> Tensor:
    """`(3,)` float64: members, sum of their losses, how many were classified rightly. Adds up over batches and ranks."""
    correct = (logits.argmax(1) == labels).sum()
    total_loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([torch.tensor(float(len(labels)), device=logits.device), total_loss, correct]).to(torch.float64)
