"""Building an encoder with a task's head, counting its parameters, and loading it from a run."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dwsnet.downsample import narrowed
from dwsnet.encoders import Encoder
from dwsnet.models import num_parameters
from dwsnet.weight_space import WeightSpace
from pipeline.archive.zoo import Zoo
from pipeline.encoders import EncoderConfig
from pipeline.errors import InputError
from pipeline.functions import Own, failures_of
from pipeline.tasks.own import task_of
from pipeline.training.config import TrainingConfig

LARGE_MODEL = 1_000_000
"""Number of parameters from which a wide fixed axis causes a warning."""
logger = logging.getLogger(__name__)


def build_encoder(
    config: EncoderConfig | Own, space: WeightSpace, trusted: Collection[str]
) -> nn.Module:
    """The encoder of a configuration.

    Raises as `task_of`, and InputError if the encoder cannot read these networks.
    """
    if isinstance(config, Own):
        with torch.device("cpu"):  # models are counted on the meta device, which has no numbers
            encoder = config.make("training.encoder", trusted, "width", arguments=(space,))
        if not isinstance(encoder, nn.Module):
            raise InputError(
                f"{config.kind} must return a torch module for training.encoder, "
                f"found {type(encoder).__name__}"
            )
        if not isinstance(encoder.width, int) or encoder.width < 1:
            raise InputError(
                f"width of training.encoder {config.kind} must be an integer from 1 on, found "
                f"{encoder.width!r}"
            )
        return encoder
    try:
        return config.build(space)
    except ValueError as error:
        raise InputError(
            f"training.encoder {getattr(config, 'kind', '')} cannot read the networks of the zoo: "
            f"{error}"
        ) from error


def try_encoder(config: Own, zoo: Zoo, trusted: Collection[str]):
    """Raises InputError if a user's encoder fails on the first two networks of the train split."""
    encoder, what = build_encoder(config, zoo.space, trusted), f"training.encoder {config.kind}"
    if others := {str(part.dtype) for part in encoder.parameters()} - {"torch.float32"}:
        raise InputError(
            f"{what} must have parameters of torch.float32, found {', '.join(sorted(others))}"
        )
    block, _ = next(zoo.blocks("train"))
    state = {name: tensor[:2] for name, tensor in block.items()}
    with torch.no_grad(), failures_of(what):
        vectors = encoder.eval()(state)
    expected = len(next(iter(state.values()))), encoder.width
    found = tuple(getattr(vectors, "shape", ())) or type(vectors).__name__
    if found != expected:
        raise InputError(
            f"{what} must return vectors {expected} of {expected[0]} networks, as its width says, "
            f"found {found}"
        )


def build_model(
    config: TrainingConfig,
    space: WeightSpace,
    prepared: Mapping[str, Any],
    trusted: Collection[str],
) -> tuple[nn.Module, nn.Module]:
    """The encoder, and the task's model around it.

    Raises InputError if the encoder lacks an output that the task needs.
    """
    task, encoder = task_of(config.task, trusted), build_encoder(config.encoder, space, trusted)
    try:
        return encoder, task.build(encoder, prepared)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"training.encoder {config.encoder.kind} does not suit training.task "
            f"{config.task.kind}: {error}"
        ) from error


def num_parameters_of(
    config: TrainingConfig,
    space: WeightSpace,
    prepared: Mapping[str, Any],
    trusted: Collection[str],
) -> int:
    """The number of parameters of the model, which is built without allocating memory."""
    with torch.device("meta"):
        return num_parameters(build_model(config, space, prepared, trusted)[1])


def calibrate(encoder: nn.Module, zoo: Zoo):
    """Give the encoder what it takes from the train split without learning: statistics for
    standardisation, some networks."""
    if isinstance(encoder, Encoder):
        block, _ = next(zoo.blocks("train"))
        encoder.calibrate(zoo.statistics, block)


def shared_names(encoder: nn.Module, model: nn.Module) -> dict[str, str]:
    """The model's name of each tensor of its encoder, by the encoder's own name; only tensors that
    the model uses."""
    names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    own = encoder.state_dict(keep_vars=True)
    return {name: names[id(tensor)] for name, tensor in own.items() if id(tensor) in names}


def load_encoder(encoder: nn.Module, shared: Mapping[str, str], state: Mapping[str, Tensor]):
    """Load the encoder's tensors from the state dict of another model; those it lacks stay."""
    encoder.load_state_dict({name: state[theirs] for name, theirs in shared.items()}, strict=False)


def warn_of_wide_axes(
    config: TrainingConfig,
    space: WeightSpace,
    prepared: Mapping[str, Any],
    trusted: Collection[str],
):
    """Warn if a large model owes most parameters to one fixed axis, such as the pixels of MLPs."""
    size = num_parameters_of(config, space, prepared, trusted)
    if size < LARGE_MODEL:
        return
    fixed = {axis.name: axis for spec in space.tensors for axis in spec.axes if not axis.hidden}
    slim = {
        name: num_parameters_of(config, narrowed(space, name, 1), prepared, trusted)
        for name in fixed
    }
    axis = fixed[min(slim, key=slim.__getitem__)]
    if slim[axis.name] <= size / 2:
        logger.warning(
            "the %s has %s parameters, and would have %s if the fixed axis %r of its networks had "
            "a single entry instead of %d: layers grow with its square; "
            "dwsnet.downsample.DownsampledLinear maps a wide axis to a narrow one first",
            config.encoder.kind,
            f"{size:,}",
            f"{slim[axis.name]:,}",
            axis.name,
            axis.size,
        )
