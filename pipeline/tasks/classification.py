"""Which class was the signal of? The label of the source, from the weights alone."""

import logging

import numpy as np
import pyarrow.compute as pc
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional as F

from dwsnet.downsample import narrowed
from dwsnet.heads import ValuesHead
from dwsnet.models import num_parameters
from dwsnet.weight_space import WeightSpace
from pipeline.archive.record import ZooRecord
from pipeline.archive.zoo import Zoo, column
from pipeline.config import ModelConfig
from pipeline.encoders import AnyEncoder, DWSNetConfig, EncoderConfig, sized
from pipeline.errors import InputError
from pipeline.location import Location

LARGE_MODEL = 1_000_000
"""Parameters from which a wide fixed axis is warned of."""
logger = logging.getLogger(__name__)


def build_model(config: ModelConfig, space: WeightSpace, num_classes: int) -> nn.Module:
    """A classifier of stacked state dicts. A baseline is as large as the DWSNet of the same configuration."""

    def model(encoder: EncoderConfig) -> nn.Module:
        return ValuesHead(encoder.build(space), num_classes, config.dropout)

    encoder = DWSNetConfig(
        channels=config.channels,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        pooling=config.pooling,
        skip=config.has_skips,
        width=config.head_width,
        canonical_signs=config.canonical_signs,
    )
    if config.kind == "dwsnet":
        return model(encoder)
    chosen = TypeAdapter(AnyEncoder).validate_python(
        {"kind": config.kind, "canonical_signs": config.canonical_signs}
    )
    with torch.device("meta"):
        limit = num_parameters(model(encoder))
    return model(sized(chosen, model, limit))


def warn_of_wide_axes(config: ModelConfig, space: WeightSpace, num_classes: int):
    """Say so where most of a large model's parameters come from one fixed axis, such as the pixels that an MLP takes."""
    with torch.device("meta"):  # counted, not allocated
        size = num_parameters(build_model(config, space, num_classes))
        if size < LARGE_MODEL:
            return
        fixed = {axis.name: axis for spec in space.tensors for axis in spec.axes if not axis.hidden}
        slim = {
            name: num_parameters(build_model(config, narrowed(space, name, 1), num_classes))
            for name in fixed
        }
    axis = fixed[min(slim, key=slim.__getitem__)]
    if slim[axis.name] <= size / 2:
        logger.warning(
            "the %s has %s parameters, and would have %s if the fixed axis %r of its networks had a single entry and not %d: "
            "layers grow with the square of that; dwsnet.downsample.DownsampledLinear maps a wide axis to a narrow one first",
            config.kind,
            f"{size:,}",
            f"{slim[axis.name]:,}",
            axis.name,
            axis.size,
        )


def adapt_to(zoo: Zoo, model: nn.Module) -> nn.Module:
    """The model with what it takes from the train split: statistics that standardise, a network to align to."""
    block, _ = next(zoo.blocks("train"))
    model.encoder.calibrate(zoo.statistics, block)
    return model


def require_class_names(record: ZooRecord, folder: Location):
    """Raises InputError where a zoo, be it planned only, has no classes to tell apart."""
    names = record.signals.class_names
    if len(names) < 2:
        raise InputError(
            f"zoo {folder} has no classes to learn: its members must have labels of two classes or more, found "
            f"{', '.join(names) or 'none'}; label the signals, or make the zoo alone with `dwszoo zoo build`"
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
        raise InputError(
            f"zoo {zoo.folder} must have members with weights in its validation split, found none"
        )


def majority(zoo: Zoo, split: str) -> tuple[str, float]:
    """The most frequent class of the train split, and the accuracy on `split` of answering nothing else."""
    train, labels = (column(zoo.members(name), "label") for name in ("train", split))
    most_frequent = np.bincount(train).argmax()
    return zoo.record.signals.class_names[most_frequent], float((labels == most_frequent).mean())


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
