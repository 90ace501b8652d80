"""The DeepSpeed engine, configured from a TrainingConfig, and one step of it."""

import math
import os
from functools import wraps
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from pipeline.training.config import TrainingConfig


def learning_rate_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Fraction of the peak learning rate at `step`: linear warm-up, then a cosine to zero."""
    warmup = round(total_steps * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total_steps - warmup))))


def deepspeed_config(config: TrainingConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration.

    Ranks may have shares of different sizes, which `take_step` weights; DeepSpeed only counts
    ranks.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": world_size,
        # Without ZeRO `take_step` clips itself, because it needs the norm before the step.
        "gradient_clipping": config.gradient_clip if config.zero_stage else 0.0,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
        "timers": {"throughput": {"enabled": False}},  # it waits for the GPU twice per step
    }


class AdamW(torch.optim.AdamW):
    """torch's, without the decorators that keep it out of compiled graphs: they import the
    compiler, which takes each rank seconds."""

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


def make_engine(model: nn.Module, config: TrainingConfig, world_size: int, on_gpu: bool):
    """A DeepSpeed engine around `model`, with AdamW, in the current process group."""
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported
    import deepspeed
    import deepspeed.ops

    # An optional kernel for inference on one host, which takes DeepSpeed a minute to compile.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if config.zero_stage:
        import_muon()
    deepspeed.utils.logger.setLevel("WARNING")
    deepspeed.init_distributed(
        "nccl" if on_gpu else "gloo", auto_mpi_discovery=False, verbose=False
    )
    optimizer = AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,  # checks `found_inf` on the device
    )
    if config.compile:
        compile_for_training(model)
    if config.precision == "bf16":
        train_in_bfloat16(model, "cuda" if on_gpu else "cpu")
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=deepspeed_config(config, world_size)
    )
    return engine


def import_muon():
    """Import the Muon optimizer without its decorators, which import the compiler like AdamW's.

    ZeRO imports it to check that the optimizer is another.
    """
    from deepspeed.runtime import compiler

    compile, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        compiler.compile = compile


def compile_for_training(model: nn.Module):
    """Compile the model's forward and backward pass in training; scoring stays uncompiled."""
    forward = model.forward
    compiled = torch.compile(forward, mode="reduce-overhead")  # CUDA graphs; nothing on CPUs

    @wraps(forward)
    def in_training(*arguments, **named):
        return (compiled if model.training else forward)(*arguments, **named)

    model.forward = in_training


def train_in_bfloat16(model: nn.Module, device: str):
    """Run the model under autocast in training; parameters, gradients and outputs stay float32.

    DeepSpeed disables autocast around its engine, and its own mode would sum the gradients of ranks
    in bfloat16.
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
    """Take one optimiser step; returns the gradient norm over all ranks and parameters, unclipped.

    `weight` is this rank's share of the batch times the number of ranks, so that the loss is the
    mean over the whole batch. If the loss of any rank or the gradient is not finite, the weights
    stay unchanged on all ranks, and the norm is not finite either. Without ZeRO nothing here waits
    for the device; with ZeRO, DeepSpeed does.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate
    # A NaN loss makes the gradient NaN, which reaches all ranks when gradients are summed.
    engine.backward(loss * torch.where(loss.detach().isfinite(), weight, math.nan))
    if engine.zero_optimization_stage() == 0:
        norm = nn.utils.clip_grad_norm_(engine.module.parameters(), clip)
        engine.optimizer.found_inf = (~norm.isfinite()).float()
        engine.step()
        return norm
    engine.step()
    found = engine.get_global_grad_norm() if engine.was_step_applied() else math.inf
    return torch.as_tensor(found, device=loss.device)


class Outcome:
    """The loss and gradient norm of a step, copied while the device computes the next step."""

    def __init__(self, loss: Tensor, norm: Tensor):
        numbers = torch.stack((loss.detach().double(), norm.double()))
        self.numbers = numbers.to("cpu", non_blocking=True)
        self.copied = torch.cuda.current_stream().record_event() if loss.is_cuda else None

    def read(self) -> tuple[float, float]:
        """The loss and the norm; waits until the step is done."""
        if self.copied is not None:
            self.copied.synchronize()
        loss, norm = self.numbers.tolist()
        return loss, norm
