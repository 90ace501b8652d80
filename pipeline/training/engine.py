"""The DeepSpeed engine, configured from our own training config, and one step of it."""

import math
import os
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from pipeline.training.config import TrainingConfig


def learning_rate_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, then a cosine that ends at zero."""
    warmup = round(total_steps * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total_steps - warmup))))


def deepspeed_config(config: TrainingConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's JSON. Ranks may have shares of different size: `take_step` weighs them, DeepSpeed counts ranks alone."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": world_size,
        # Without ZeRO `take_step` clips, as it must look at the norm before the step.
        "gradient_clipping": config.gradient_clip if config.zero_stage else 0.0,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
        "timers": {"throughput": {"enabled": False}},  # it waits for the GPU twice a step
    }


def make_engine(model: nn.Module, config: TrainingConfig, world_size: int, on_gpu: bool):
    """A DeepSpeed engine around `model`, with AdamW; uses the process group that is there."""
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported
    import deepspeed
    import deepspeed.ops

    # An optional kernel for inference on one host; where it counts as available, DeepSpeed compiles it for a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel("WARNING")
    deepspeed.init_distributed(
        "nccl" if on_gpu else "gloo", auto_mpi_discovery=False, verbose=False
    )
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,  # looks at `found_inf` where it computes
    )
    if config.precision == "bf16":
        train_in_bfloat16(model, "cuda" if on_gpu else "cpu")
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=deepspeed_config(config, world_size)
    )
    return engine


def train_in_bfloat16(model: nn.Module, device: str):
    """Run the model under autocast while it trains: its parameters, their gradients and what comes out stay float32.

    DeepSpeed turns off autocast around its engine, and its own would sum gradients of ranks in bfloat16.
    """
    forward = model.forward

    @wraps(forward)
    def under_autocast(*arguments, **named):
        with torch.autocast(device, torch.bfloat16, enabled=model.training):
            outputs = forward(*arguments, **named)
        return tree_map_only(Tensor, as_float32, outputs)

    model.forward = under_autocast


def as_float32(output: Tensor) -> Tensor:
    return output.float() if output.dtype == torch.bfloat16 else output


def take_step(engine, loss: Tensor, weight: float, learning_rate: float, clip: float) -> Tensor:
    """One optimiser step; returns the norm of the gradient over all ranks and parameters, before it is clipped.

    `weight` is this rank's share of the batch times the number of ranks: the step is that of the mean over the whole batch.
    Where the loss of any rank or the gradient is not finite, the weights stay as they are on all ranks, and the norm is not
    finite either. Without ZeRO nothing here waits for the device; with it DeepSpeed itself does.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate
    # A loss that is not finite makes the gradient so, of which all ranks learn where gradients are summed.
    engine.backward(loss * torch.where(loss.detach().isfinite(), weight, math.nan))
    if engine.zero_optimization_stage() == 0:
        norm = nn.utils.clip_grad_norm_(engine.module.parameters(), clip)
        engine.optimizer.found_inf = (~norm.isfinite()).float()
        engine.step()
        return norm
    engine.step()
    norm = engine.get_global_grad_norm() if engine.was_step_applied() else math.inf
    return torch.as_tensor(norm, device=loss.device)


class Outcome:
    """The loss and the norm of the gradient of a step, copied from the device while it goes on with the next."""

    def __init__(self, loss: Tensor, norm: Tensor):
        numbers = torch.stack((loss.detach().double(), norm.double()))
        self.numbers = numbers.to("cpu", non_blocking=True)
        self.copied = torch.cuda.current_stream().record_event() if loss.is_cuda else None

    def read(self) -> tuple[float, float]:
        """Waits until the step is done."""
        if self.copied is not None:
            self.copied.synchronize()
        loss, norm = self.numbers.tolist()
        return loss, norm
