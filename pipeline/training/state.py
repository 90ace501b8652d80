"""A model and its Adam moments as whole tensors by name, whatever the ZeRO stage and the number of ranks.

DeepSpeed's own checkpoints are pickles, and those of stages 1 to 3 are bound to the number of ranks.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What torch's Adam calls the moments of a parameter."""


def gather_model(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, copied to the CPU of rank 0; nothing on the others. Every rank must call it.

    One tensor at a time is whole on all ranks, where ZeRO 3 has each split up.
    """
    from deepspeed.runtime.zero import GatheredParameters

    copies = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        with GatheredParameters(tensor):
            keep(copies, name, tensor)
    return copies


def gather_moments(engine) -> dict[str, Tensor]:
    """Adam's moments as `exp_avg.NAME` and `exp_avg_sq.NAME`, copied to the CPU of rank 0; nothing on the others.

    Every rank must call it. What has not been updated yet has none.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    adam, copies = engine.basic_optimizer, {}
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
    """Give Adam what `gather_moments` collected after so many updates, in whatever world and stage that was."""
    make_moments(engine, updates)
    for name, parameter in trained(engine.module):
        for key in MOMENTS:
            if f"{key}.{name}" in moments:
                set_moment(engine, parameter, key, moments[f"{key}.{name}"].to(engine.device))


def make_moments(engine, updates: int):
    """Moments of zero for every tensor that Adam updates: by itself it makes them at the first step."""
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
        case 3:  # its setter of whole tensors fails where the ranks do not divide the entries
            world_size = dist.get_world_size()
            size = -(-value.numel() // world_size)
            padded = F.pad(value.flatten(), (0, size * world_size - value.numel()))
            own = padded[dist.get_rank() * size :][:size]
            safe_set_local_optimizer_state(parameter, own, key)
        case _:
            safe_set_full_optimizer_state(parameter, value, key)


@contextmanager
def whole(engine) -> Iterator[nn.Module]:
    """The model, which in the block each rank may run by itself: ZeRO 3 has all ranks put each layer together at once."""
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
    """Copy a tensor that every rank has, on rank 0."""
    if dist.get_rank() == 0:
        copies[name] = tensor.detach().to("cpu", copy=True).contiguous()
