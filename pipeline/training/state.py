"""A model and its Adam moments as whole tensors by name, for any ZeRO stage and number of ranks.

DeepSpeed's own checkpoints are pickles, and those of stages 1 to 3 depend on the number of ranks.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of a parameter's moments in torch's Adam."""
WEIGHTS = "weights."
"""Beginning of the names of weights that are saved beside their average."""


def gather_model(model: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU of rank 0, empty on other ranks. Every rank must call it.

    Under ZeRO 3, only one tensor at a time is gathered on all ranks.
    """
    from deepspeed.runtime.zero import GatheredParameters

    copies: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        with GatheredParameters(tensor):
            keep(copies, name, tensor)
    return copies


def weights_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that were saved beside their average, empty if there are none."""
    names = (name for name in tensors if name.startswith(WEIGHTS))
    return {name.removeprefix(WEIGHTS): tensors[name] for name in names}


def gather_moments(engine) -> dict[str, Tensor]:
    """Adam's moments `exp_avg.NAME` and `exp_avg_sq.NAME` on the CPU of rank 0, else empty.

    Every rank must call it. Parameters that have not been updated have no moments.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    adam, copies = engine.basic_optimizer, dict[str, Tensor]()
    for name, parameter in trained(engine.module):
        for key in MOMENTS:
            if engine.zero_optimization_stage() == 0:
                moment = adam.state[parameter].get(key)
            else:
                moment = safe_get_full_optimizer_state(parameter, key) if adam.state else None
            if moment is not None:
                keep(copies, f"{key}.{name}", moment)
    return copies


def set_moments(engine, moments: Mapping[str, Tensor], updates: int):
    """Load moments from `gather_moments`, after `updates` updates, of any world size and stage."""
    make_moments(engine, updates)
    for name, parameter in trained(engine.module):
        for key in MOMENTS:
            if f"{key}.{name}" in moments:
                set_moment(engine, parameter, key, moments[f"{key}.{name}"].to(engine.device))


def make_moments(engine, updates: int):
    """Create zero moments of all tensors that Adam updates, as it would do at the first step."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    stage, zero, adam = engine.zero_optimization_stage(), engine.optimizer, engine.basic_optimizer
    if stage == 0:
        tensors = [parameter for _, parameter in trained(engine.module)]
    else:
        tensors = (
            zero.fp32_partitioned_groups_flat
            if stage == 3
            else zero.single_partition_of_fp32_groups
        )
    for tensor in tensors:
        zeros: dict[str, Any] = {key: torch.zeros_like(tensor) for key in MOMENTS}
        adam.state[tensor] = zeros | {"step": torch.tensor(float(updates), device=tensor.device)}
    if stage in (1, 2):
        for parameters, tensor in zip(zero.bit16_groups, tensors, strict=True):
            lazy_init_hp_params_optimizer_state(parameters, tensor, adam.state)


def set_moment(engine, parameter: nn.Parameter, key: str, value: Tensor):
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    match engine.zero_optimization_stage():
        case 0:
            engine.basic_optimizer.state[parameter][key].copy_(value)
        case 3:  # safe_set_full_optimizer_state fails unless the ranks divide the entries
            world_size = dist.get_world_size()
            size = -(-value.numel() // world_size)
            padded = F.pad(value.flatten(), (0, size * world_size - value.numel()))
            own = padded[dist.get_rank() * size :][:size]
            safe_set_local_optimizer_state(parameter, own, key)
        case _:
            safe_set_full_optimizer_state(parameter, value, key)


@contextmanager
def whole(engine) -> Iterator[nn.Module]:
    """The model with whole parameters, so that each rank can run it alone in the block.

    Under ZeRO 3, running a layer needs all ranks otherwise.
    """
    if engine.zero_optimization_stage() == 3:
        from deepspeed.runtime.zero import unwrap_model_for_generation

        with unwrap_model_for_generation(engine):
            yield engine.module
    else:
        yield engine.module


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are not frozen, by name."""
    return ((name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad)


def keep(copies: dict[str, Tensor], name: str, tensor: Tensor):
    """Copy a tensor to `copies` on rank 0; other ranks do nothing."""
    if dist.get_rank() == 0:
        copies[name] = tensor.detach().to("cpu", copy=True).contiguous()
