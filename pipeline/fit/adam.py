"""Full-batch Adam on many SIRENs, each stopped by its own rule.

A compiled kernel fits one member after the other, or on a GPU one in each program. Where there is none, PyTorch does the
same on many at once: the gradient is written out by hand, since a SIREN's backward pass needs its own activations and
their cosines only, and without autograd a step is about twenty batched kernels into buffers for a chunk of members.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dwsnet.state import unpack
from dwsnet.weight_space import WeightSpace
from pipeline.config import FitConfig, InrConfig
from pipeline.decode import Decoder
from pipeline.errors import InputError
from pipeline.fit.gpu import load_gpu_kernel
from pipeline.fit.kernel import load_kernel
from pipeline.fit.siren import decode_contract, init_rows, psnr
from pipeline.progress import Advance, no_progress

CHUNK = {"cpu": 64, "cuda": 1024}
"""Members in flight in PyTorch. On a CPU more spill from the L2 cache; on a GPU fewer do not hide the launches."""
TOLD_EVERY = {"cpu": 8, "cuda": 65536}
"""Members that a compiled kernel fits before it tells."""
CHECK_EVERY = 10
"""Steps between looks at the stop rule."""
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Fit:
    """What came out, one row a member."""

    rows: Tensor
    """`(members, parameters)` float32: the fitted parameters."""
    psnr: np.ndarray
    """dB, of the parameters as stored, on the grid."""
    steps: np.ndarray
    """Adam steps done."""
    stop_reason: np.ndarray
    """'target', 'max_steps' or 'diverged' (a parameter or value became NaN or infinite)."""

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
    """Fit one INR to each of `targets` `(members, channels, points)`, initialised from its key, on "cpu" or "cuda".

    The parameters of a member are a function of its own key and target alone, the same on every machine of a kind.
    Without a compiled kernel they also depend, at most in the last bits, on the members it is fitted with. Raises
    InputError where there is no such device.
    """
    require_device(device)
    rows, steps = (
        init_rows(space, inr, keys).to(device),
        torch.zeros(len(keys), dtype=torch.int64, device=device),
    )
    kernel = find_kernel((coordinates.shape[1], *inr.hidden, targets.shape[1]), device)
    outputs = ((targets - inr.output_offset) / (inr.output_scale or 1.0)).to(device)
    problem = space, inr, of_outputs(config, inr), rows, steps, coordinates.to(device), outputs
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
    """Raises InputError where a worker was given a GPU that PyTorch cannot use."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"this worker should fit on a GPU, and PyTorch {torch.__version__} sees none: "
            "install its CUDA build and a driver there, or go without --num-gpus"
        )


def find_kernel(sizes: tuple[int, ...], device: str) -> Callable[..., None] | None:
    """Compiled code that fits nets of these sizes on a device; None, after one warning, where PyTorch has to."""
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
    """`(members,)` dB: how well each row renders its own of `targets` `(members, channels, points)`."""
    decode = Decoder(decode_contract(inr), space, "a zoo of INRs")
    points, wanted = coordinates.to(device), targets.transpose(1, 2)
    qualities = [
        psnr(decode(unpack(space, part.to(device)), points), target.to(device))
        for part, target in zip(rows.split(CHUNK[device]), wanted.split(CHUNK[device]), strict=True)
    ]
    return torch.cat(qualities).cpu()


def of_outputs(config: FitConfig, inr: InrConfig) -> FitConfig:
    """With the PSNR, for a peak of 1, that outputs have where the signals that they are scaled to are at the target."""
    if config.target_psnr is None:
        return config
    target = config.target_psnr + 20 * math.log10(inr.output_scale or 1.0)
    return config.model_copy(update={"target_psnr": target})


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
    coordinates: Tensor,
    targets: Tensor,
    advance: Advance,
):
    """As `_fit_compiled`, in PyTorch and in chunks."""
    size = CHUNK[rows.device.type]
    for start in range(0, len(rows), size):
        chunk = slice(start, start + size)
        _fit_chunk(space, inr, config, rows[chunk], steps[chunk], coordinates, targets[chunk])
        advance(len(rows[chunk]))


def _fit_chunk(
    space: WeightSpace,
    inr: InrConfig,
    config: FitConfig,
    rows: Tensor,
    steps: Tensor,
    coordinates: Tensor,
    targets: Tensor,
):
    """Fit `rows` in place and count `steps` in place; finished members leave the batch."""
    active = torch.arange(len(rows), device=rows.device)
    work, target = rows.clone(), targets
    momentum, variance = torch.zeros_like(work), torch.zeros_like(work)
    for step, rate in enumerate(learning_rates(config).tolist(), 1):
        gradient, error = gradients(space, inr, work, coordinates, target)
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
    space: WeightSpace, inr: InrConfig, rows: Tensor, coordinates: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient `(members, parameters)` of each member's mean squared error, and that error `(members,)`.

    `targets` `(members, channels, points)` have the output offset taken off.
    """
    tensors = [*unpack(space, rows).values()]
    inputs = [coordinates.t().expand(len(rows), -1, -1)]
    cosines = []
    for weight, bias in zip(tensors[:-2:2], tensors[1:-2:2], strict=True):
        phase = torch.baddbmm(
            bias.unsqueeze(-1), weight, inputs[-1], beta=inr.omega, alpha=inr.omega
        )
        cosines.append(phase.cos())
        inputs.append(phase.sin_())
    residual = torch.baddbmm(tensors[-1].unsqueeze(-1), tensors[-2], inputs[-1]).sub_(targets)
    error = residual.square().mean((1, 2))
    delta = residual.mul_(2 / residual[0].numel())
    parts: list[Tensor] = []
    for layer in reversed(range(len(inputs))):
        parts = [torch.bmm(delta, inputs[layer].transpose(1, 2)).flatten(1), delta.sum(-1), *parts]
        if layer:
            delta = (
                torch.bmm(tensors[2 * layer].transpose(1, 2), delta)
                .mul_(cosines[layer - 1])
                .mul_(inr.omega)
            )
    return torch.cat(parts, 1), error
