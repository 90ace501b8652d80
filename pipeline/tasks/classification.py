"""Which class was the signal of? The label of the source, from the weights alone."""

import pyarrow.compute as pc
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.baselines import (
    AlignedMLPClassifier,
    AugmentedMLPClassifier,
    FlatMLPClassifier,
    INR2VecClassifier,
    TransformerClassifier,
)
from dwsnet.models import DWSNetClassifier, num_parameters
from dwsnet.weight_space import WeightSpace
from pipeline.archive.record import ZooRecord
from pipeline.archive.zoo import Zoo
from pipeline.config import ModelConfig
from pipeline.errors import InputError
from pipeline.location import Location

BASELINES = {
    "mlp": FlatMLPClassifier,
    "mlp-augmented": AugmentedMLPClassifier,
    "mlp-aligned": AlignedMLPClassifier,
    "inr2vec": INR2VecClassifier,
    "transformer": TransformerClassifier,
}


def build_model(config: ModelConfig, space: WeightSpace, num_classes: int) -> nn.Module:
    """A classifier of stacked state dicts. A baseline is as large as the DWSNet of the same configuration."""
    model = DWSNetClassifier(
        space,
        num_classes,
        channels=config.channels,
        num_layers=config.num_layers,
        head_width=config.head_width,
        dropout=config.dropout,
        canonical_signs=config.canonical_signs,
        num_heads=config.num_heads,
        pooling=config.pooling,
    )
    if config.kind in BASELINES:
        return BASELINES[config.kind](
            space, num_classes, num_parameters(model), config.canonical_signs
        )
    return model


def adapt_to(zoo: Zoo, model: nn.Module) -> nn.Module:
    """The model with what it takes from the train split: statistics that standardise, a network to align to."""
    model.read.standardize.set(zoo.statistics)
    if isinstance(model, AlignedMLPClassifier):
        block, _ = next(zoo.blocks("train"))
        model.align_to(block)
    return model


def require_class_names(record: ZooRecord, folder: Location):
    """Raises InputError where a zoo, be it planned only, has no classes to tell apart."""
    names = record.signals.class_names
    if len(names) < 2:
        raise InputError(
            f"zoo {folder} has no classes to learn: its signals, {record.signals.name}, must be of two classes or more, found "
            f"{', '.join(names) or 'none'}; `dwszoo zoo build` makes a zoo without learning from it"
        )


def require_classes(zoo: Zoo):
    """Raises InputError where a zoo has no classes to learn, or no members to choose the best epoch by."""
    require_class_names(zoo.record, zoo.folder)
    members = zoo.catalog.filter(pc.field("status") == "ok")
    if "label" not in members.column_names or members["label"].null_count:
        raise InputError(
            f"zoo {zoo.folder} has no classes to learn: its members must have labels, whole numbers or names"
        )
    if not len(zoo.members("validation")):
        raise InputError(f"zoo {zoo.folder} must have members in its validation split, found none")


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy."""
    return F.cross_entropy(logits, labels)


def totals(logits: Tensor, labels: Tensor) -> Tensor:
    """`(3,)` float64: members, sum of their losses, how many were classified rightly. Adds up over batches and ranks."""
    correct = (logits.argmax(1) == labels).sum()
    total_loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack(
        [torch.tensor(float(len(labels)), device=logits.device), total_loss, correct]
    ).to(torch.float64)
