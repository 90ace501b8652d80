"""The DeepSpeed engine, configured from our own training config."""

import math
import os
from typing import Any

from torch import nn

from pipeline.training.config import TrainingConfig


def learning_rate_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, then a cosine that ends at zero."""
    warmup = round(total_steps * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total_steps - warmup))))


def deepspeed_config(config: TrainingConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's JSON. The global batch is fixed, so the same configuration learns alike on any number of workers."""
    return {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": config.batch_size // world_size,
        "gradient_clipping": config.gradient_clip,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }


def make_engine(
    model: nn.Module, config: TrainingConfig, total_steps: int, world_size: int, on_gpu: bool
):
    """A DeepSpeed engine around `model`, with AdamW and the learning-rate schedule; uses the process group that Ray made."""
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported
    import deepspeed
    import deepspeed.ops
    import torch

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
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, total_steps, config.warmup_fraction)
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,
        config=deepspeed_config(config, world_size),
    )
    return engine
