"""Full-batch Adam on many INRs, each with its own stop rule.

A compiled kernel fits SIRENs, one after the other, or on a GPU one per program. Other INRs, and
SIRENs without it, are fitted by PyTorch, a chunk at once. The gradient is written by hand: the
backward pass needs only the activations and their slopes, and without autograd a step of a SIREN is
about twenty batched kernels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dwsnet.state import unpack
from dwsnet.weight_space import WeightSpace
from pipeline.config import FitConfig, InrConfig, SirenConfig
from pipeline.decode import Decoder, encoded
from pipeline.errors import InputError
from pipeline.fit.activations import ACTIVATIONS
from pipeline.fit.gpu import load_gpu_kernel
from pipeline.fit.inr import decode_contract, init_rows, psnr
from pipeline.fit.kernel import load_kernel
from pipeline.progress import Advance, no_progress

CHUNK = {"cpu": 64, "cuda": 1024}
"""Members that PyTorch fits at once. More spill from the L2 cache of a CPU; with fewer, the time of
a GPU is spent on launches."""
TOLD_EVERY = {"cpu": 8, "cuda": 65536}
"""Members that a compiled kernel fits between progress reports."""
CHECK_EVERY = 10
"""Steps between checks of the stop rule."""
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Fit:
    """Results of a fit, one row per member."""

    rows: Tensor
    """`(members, parameters)` float32: the fitted parameters."""
    psnr: np.ndarray
    """`(members,)` in dB, on the grid, of the parameters as stored."""
    steps: np.ndarray
    """`(members,)` Adam steps done."""
    stop_reason: np.ndarray
    """`(members,)`: 'target', 'max_steps' or 'diverged' (a parameter or value is not finite)."""

    @property
    def ok(self) -> np.ndarray:
        """Which members have weights worth keeping."""
        return self.stop_reason != "diverged"


def fit(
    space: WeightSpace,
    inr: InrConfig,
    config: FitConfig,
    keys: np.ndarray,
    coordinates: Tensor,
    targets: Tensor,
    device: str = "cpu",
    advance: Advance = no_progress,
) -> Fit:
    """Fit one INR to each of `targets` `(members, channels, points)`, initialized from `keys`.

    `device` is "cpu" or "cuda". The parameters of a member depend on its own key and target alone,
    and are the same on all machines of a kind. Without a compiled kernel their last bits may also
    depend on the other members. Raises InputError if there is no such device.
    """
    require_device(device)
    rows, steps = (
        init_rows(space, inr, keys).to(device),
        torch.zeros(len(keys), dtype=torch.int64, device=device),
    )
    kernel = find_kernel(inr, (coordinates.shape[1], *inr.hidden, targets.shape[1]), device)
    outputs = ((targets - inr.output_offset) / (inr.output_scale or 1.0)).to(device)
    inputs = encoded(coordinates, inr.frequencies(coordinates.shape[1])).to(device)
    problem = space, inr, for_outputs(config, inr), rows, steps, inputs, outputs
    if kernel is None:
        _fit_eagerly(*problem, advance)
    else:
        _fit_compiled(kernel, *problem[1:], advance)
    rows, steps = rows.cpu(), steps.cpu()
    final = psnr_at(space, inr, rows, coordinates, targets, device)
    finite = rows.isfinite().all(1) & final.isfinite()
    reached = (steps < config.max_steps) | (final >= (config.target_psnr or float("inf")))
    reason = np.where(~finite.numpy(), "diverged", np.where(reached.numpy(), "target", "max_steps"))
    return Fit(rows, final.numpy(), steps.numpy(), reason)


def require_device(device: str):
    """Raises InputError if a worker was given a GPU that PyTorch cannot use."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"this worker should fit on a GPU, but PyTorch {torch.__version__} finds none: "
            "install its CUDA build and a driver there, or go without --num-gpus"
        )


def find_kernel(inr: InrConfig, sizes: tuple[int, ...], device: str) -> Callable[..., None] | None:
    """Compiled code that fits SIRENs of these sizes; None, after a warning, if there is none."""
    if not isinstance(inr, SirenConfig):
        return None
    if device == "cuda":
        return load_gpu_kernel(sizes)
    kernel = load_kernel()
    return None if kernel is None else kernel.fit_members


def psnr_at(
    space: WeightSpace,
    inr: InrConfig,
    rows: Tensor,
    coordinates: Tensor,
    targets: Tensor,
    device: str = "cpu",
) -> Tensor:
    """`(members,)` PSNR in dB of each row on its own of `targets` `(members, channels, points)`."""
    decode = Decoder(decode_contract(inr, coordinates.shape[1]), space, "a zoo of INRs")
    points, wanted = coordinates.to(device), targets.transpose(1, 2)
    qualities = [
        psnr(decode(unpack(space, part.to(device)), points), target.to(device))
        for part, target in zip(rows.split(CHUNK[device]), wanted.split(CHUNK[device]), strict=True)
    ]
    return torch.cat(qualities).cpu()


def for_outputs(config: FitConfig, inr: InrConfig) -> FitConfig:
    """`config` with the learning rate of this kind of INR, and with the target PSNR of raw outputs
    (peak 1) that gives signals the target PSNR."""
    target = config.target_psnr
    if target is not None:
        target += 20 * math.log10(inr.output_scale or 1.0)
    rate = config.learning_rate * inr.learning_rate_factor
    return config.model_copy(update={"learning_rate": rate, "target_psnr": target})


def learning_rates(config: FitConfig) -> Tensor:
    """`(max_steps,)` float64: Adam's learning rate at each step."""
    progress = torch.arange(config.max_steps, dtype=torch.float64) / config.max_steps
    shape = {"constant": torch.ones_like, "cosine": lambda part: (1 + (math.pi * part).cos()) / 2}
    return config.learning_rate * shape[config.schedule](progress)


def _fit_compiled(
    kernel: Callable[..., None],
    inr: InrConfig,
    config: FitConfig,
    rows: Tensor,
    steps: Tensor,
    coordinates: Tensor,
    targets: Tensor,
    advance: Advance,
):
    """Fit `rows` in place and count `steps` in place."""
    assert isinstance(inr, SirenConfig)
    rates, grid, size = (
        learning_rates(config),
        coordinates.contiguous(),
        TOLD_EVERY[rows.device.type],
    )
    for some_rows, some_steps, some_targets in zip(
        *(whole.split(size) for whole in (rows, steps, targets)), strict=True
    ):
        kernel(
            (grid.shape[1], *inr.hidden, targets.shape[1]),
            grid,
            some_targets.contiguous(),
            some_rows,
            some_steps,
            omega=inr.omega,
            rates=rates,
            target_psnr=config.target_psnr,
            check_every=CHECK_EVERY,
            betas=(BETA1, BETA2),
            epsilon=EPSILON,
        )
        advance(len(some_rows))


def _fit_eagerly(
    space: WeightSpace,
    inr: InrConfig,
    config: FitConfig,
    rows: Tensor,
    steps: Tensor,
    inputs: Tensor,
    targets: Tensor,
    advance: Advance,
):
    """Like `_fit_compiled`, in PyTorch and in chunks."""
    size = CHUNK[rows.device.type]
    for start in range(0, len(rows), size):
        chunk = slice(start, start + size)
        _fit_chunk(space, inr, config, rows[chunk], steps[chunk], inputs, targets[chunk])
        advance(len(rows[chunk]))


def _fit_chunk(
    space: WeightSpace,
    inr: InrConfig,
    config: FitConfig,
    rows: Tensor,
    steps: Tensor,
    inputs: Tensor,
    targets: Tensor,
):
    """Fit `rows` in place and count `steps` in place; finished members leave the batch."""
    active = torch.arange(len(rows), device=rows.device)
    work, target = rows.clone(), targets
    momentum, variance = torch.zeros_like(work), torch.zeros_like(work)
    for step, rate in enumerate(learning_rates(config).tolist(), 1):
        gradient, error = gradients(space, inr, work, inputs, target)
        if config.target_psnr is not None and step % CHECK_EVERY == 1:
            going = ~(-10 * error.log10() >= config.target_psnr)
            if not going.all():
                rows[active[~going]] = work[~going]
                steps[active[~going]] = step - 1
                active, work, target = active[going], work[going], target[going]
                momentum, variance, gradient = momentum[going], variance[going], gradient[going]
                if not len(active):
                    return
        momentum.lerp_(gradient, 1 - BETA1)
        variance.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        denominator = (variance / (1 - BETA2**step)).sqrt_().add_(EPSILON)
        work.addcdiv_(momentum, denominator, value=-rate / (1 - BETA1**step))
    rows[active] = work
    steps[active] = config.max_steps


def gradients(
    space: WeightSpace, inr: InrConfig, rows: Tensor, inputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """`(members, parameters)` gradients of mean squared errors, and these errors `(members,)`.

    `inputs` are encoded coordinates `(points, inputs)`. The output offset is already subtracted
    from `targets` `(members, channels, points)`.
    """
    activate = ACTIVATIONS[inr.activation]
    omega, sigma = getattr(inr, "omega", 1.0), getattr(inr, "sigma", 1.0)
    tensors = [*unpack(space, rows).values()]
    values = [inputs.t().expand(len(rows), -1, -1)]
    slopes = []
    for weight, bias in zip(tensors[:-2:2], tensors[1:-2:2], strict=True):
        phase = torch.baddbmm(bias.unsqueeze(-1), weight, values[-1], beta=omega, alpha=omega)
        slopes.append(torch.empty_like(phase))
        activate(phase, slopes[-1], omega, sigma)
        values.append(phase)
    residual = torch.baddbmm(tensors[-1].unsqueeze(-1), tensors[-2], values[-1]).sub_(targets)
    error = residual.square().mean((1, 2))
    delta = residual.mul_(2 / residual[0].numel())
    parts: list[Tensor] = []
    for layer in reversed(range(len(values))):
        parts = [torch.bmm(delta, values[layer].transpose(1, 2)).flatten(1), delta.sum(-1), *parts]
        if layer:
            delta = torch.bmm(tensors[2 * layer].transpose(1, 2), delta)
            delta.mul_(slopes[layer - 1]).mul_(omega)
    return torch.cat(parts, 1), error
