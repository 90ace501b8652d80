"""Fitting on a GPU: one Triton program fits one member, many Adam steps per launch.

The points pass through the network in tiles of 16, whose activations, slopes and gradients stay in
registers. Parameters, momentum and variance are read from caches and written once per step: a
member takes 19 kB. A program ends as soon as its member reaches its target, and the GPU starts the
next one. Finished members are dropped between launches, so that the last launches are small.

Precision: products of hidden layers run on tensor cores, with operands rounded to TF32 and sums in
float32. Everything else is float32, including the first layer, where omega would amplify rounding
to phase errors. With this rounding, emulated on a CPU, 16 digits of 28x28 reach 34.6 dB in the
1,500 steps of dws-mnist, and 34.7 dB without. With SIREN's initialization they reach 60.8 and
60.9 dB with a cosine schedule, 58.4 and 61.2 dB with a constant learning rate.

Measured on an H200 with Triton 3.6: 9.4 M steps/s of 2-32-32-1 on 784 points, 24 % of what its
sines alone would allow; gradients are within 1.7e-3 of double precision, and fits end at the same
dB and steps as on a CPU (`python -m tests.gpu.check`).

Estimate for an H200, for a step as compiled for sm_90 by Triton 3.7.1:

* 37,800 warp instructions, 255 registers per thread, none spilled, 10 kB of shared memory: eight
  members per multiprocessor. Its four schedulers issue one instruction per clock: 9,400 clocks.
* 50,176 pairs of sine and cosine. The special function units do 16 per clock: 6,300 clocks, in
  parallel. Six of the instructions above are for a pair, three of them for the range reduction.
  The polynomials of kernel.cpp would take 18 instructions per pair, 4,700 clocks more for the
  schedulers, which have less headroom than those units.
* 132 multiprocessors at 1.98 GHz: at most 28 M steps/s. The compiler's stall counts, simulated with
  two warps per scheduler and usual latencies, fill 60 % of the slots: 17 M steps/s, which is 70,000
  INRs of 1,500 steps in 6 s.
"""

from itertools import accumulate, pairwise
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from pipeline.fit.kernel import check_tensors

TILE = 16
"""Points per tile: the minimum for tensor cores."""
STEPS = 500
"""Adam steps per launch, some tenths of a second for a shard, during which Ctrl-C has to wait."""
MAX_WIDTH, MAX_CHANNELS = 128, 8
ON_CHIP = tl.constexpr(not triton.knobs.runtime.interpret)


def gpu() -> tuple[int, int]:
    """Compute capability of the GPU (90 for Hopper, 0 if not NVIDIA), shared memory per program."""
    driver = triton.runtime.driver.active
    target = driver.get_current_target()
    memory = driver.utils.get_device_properties(driver.get_current_device())["max_shared_mem"]
    return target.arch if target.backend == "cuda" else 0, memory


def why_not(sizes: tuple[int, ...], capability: int, shared_memory: int) -> str | None:
    """Why there is no kernel for a network on this GPU; None if there is one."""
    *hidden, channels = sizes[1:]
    net = "-".join(map(str, sizes))
    if capability < 80:
        return "the kernel is for NVIDIA GPUs from Ampere on"
    if max(hidden) > MAX_WIDTH or channels > MAX_CHANNELS:
        return (
            f"the kernel is for hidden layers of up to {MAX_WIDTH} neurons "
            f"and up to {MAX_CHANNELS} outputs, the net is {net}"
        )
    if (needed := shared_bytes(sizes)) > shared_memory:
        return f"{net} needs {needed:,} bytes of shared memory, and this GPU has {shared_memory:,}"
    return None


def shared_bytes(sizes: tuple[int, ...]) -> int:
    """Upper bound of shared memory: hidden weights in two layouts, a buffer to transpose a tile."""
    widths = padded(sizes)
    return 8 * sum(a * b for a, b in pairwise(widths)) + 8 * TILE * sum(widths)


def padded(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Padded widths of the hidden layers."""
    return tuple(max(16, triton.next_power_of_2(size)) for size in sizes[1:-1])


def constants(sizes: tuple[int, ...]) -> dict[str, Any]:
    """Compile-time constants: the network, and where each layer's parameters begin in a row."""
    places = accumulate(((a + 1) * b for a, b in pairwise(sizes)), initial=0)
    return {
        "SIZES": tuple(sizes),
        "WIDTHS": (0, *padded(sizes)),
        "PLACES": tuple(places),
        "TILE": TILE,
    }


def options(sizes: tuple[int, ...]) -> dict[str, int]:
    """One warp, without barriers, if its registers can hold a tile; else one per 16 neurons."""
    widest = max(padded(sizes))
    return {"num_warps": 1 if widest <= 32 else widest // 16}


def fit_members(
    sizes: tuple[int, ...],
    coordinates: Tensor,
    targets: Tensor,
    rows: Tensor,
    steps: Tensor,
    *,
    omega: float,
    rates: Tensor,
    target_psnr: float | None,
    check_every: int,
    betas: tuple[float, float],
    epsilon: float,
):
    """`pipeline.fit.kernel.Kernel.fit_members` for tensors on a GPU."""
    check_tensors(
        rows.device.type, {torch.float32: (coordinates, targets, rows), torch.int64: (steps,)}
    )
    max_steps, device = len(rates), rows.device
    count = torch.arange(1, max_steps + 1, dtype=torch.float64)
    rate = (rates.cpu() / (1 - betas[0] ** count)).float().to(device)
    unbias = (1 / (1 - betas[1] ** count)).float().to(device)
    threshold = -1.0 if target_psnr is None else 10 ** (-target_psnr / 10)
    state = [torch.zeros_like(rows) for _ in range(3)]
    active = torch.arange(len(rows), device=device)
    for end in range(min(STEPS, max_steps), max_steps + STEPS, STEPS):
        if not len(active):
            return
        end = min(end, max_steps)
        _fit[(len(active),)](
            active, coordinates, targets, rows, *state, steps, rate, unbias, end, len(coordinates),
            threshold, omega, **constants(sizes), CHECK_EVERY=check_every, BETA1=betas[0],
            BETA2=betas[1], EPSILON=epsilon, **options(sizes),
        )  # fmt: skip
        active = active[steps[active] == end]


@triton.jit(do_not_specialize=["end", "num_points"])
def _fit(
    active, coordinates, targets, rows, momentum, variance, gradient, steps, rates, unbiases, end,
    num_points, threshold, omega, SIZES: tl.constexpr, WIDTHS: tl.constexpr, PLACES: tl.constexpr,
    TILE: tl.constexpr, CHECK_EVERY: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr,
    EPSILON: tl.constexpr,
):  # fmt: skip
    """Train one of the `active` members to step `end`, or until its error is at the threshold."""
    LAST: tl.constexpr = len(SIZES) - 2
    member = tl.load(active + tl.program_id(0))
    place = member * PLACES[LAST + 1]
    targets += member * num_points * SIZES[LAST + 1]
    step = tl.load(steps + member).to(tl.int32)
    going = step < end
    while going:
        error = _gradients(
            rows + place,
            gradient + place,
            coordinates,
            targets,
            num_points,
            omega,
            SIZES,
            WIDTHS,
            PLACES,
            TILE,
        )
        going = (step % CHECK_EVERY != 0) | ~(error <= threshold)
        if going:
            # The next step reads what other threads write here; Triton inserts barriers for shared
            # memory only.
            tl.debug_barrier()
            rate, unbias = tl.load(rates + step), tl.load(unbiases + step)
            for start in range(0, PLACES[LAST + 1], 256):
                i = start + tl.arange(0, 256)
                inside = i < PLACES[LAST + 1]
                i += place
                g = tl.load(gradient + i, inside, 0.0)
                m = tl.load(momentum + i, inside, 0.0)
                v = tl.load(variance + i, inside, 0.0)
                m += (g - m) * (1 - BETA1)
                v = v * BETA2 + g * g * (1 - BETA2)
                tl.store(momentum + i, m, inside)
                tl.store(variance + i, v, inside)
                change = rate * m / (tl.sqrt(v * unbias) + EPSILON)
                tl.store(rows + i, tl.load(rows + i, inside, 0.0) - change, inside)
            tl.debug_barrier()
            step += 1
            going = step < end
    tl.store(steps + member, step.to(tl.int64))


@triton.jit
def _gradients(
    row, gradient, coordinates, targets, num_points, omega,
    SIZES: tl.constexpr, WIDTHS: tl.constexpr, PLACES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Write the gradient of one member's mean squared error, and return that error.

    Layer n maps neurons n (0: the coordinates) to neurons n + 1. Tuples hold one tensor per layer,
    as loops over layers are unrolled. Weights, biases and phases are already multiplied by omega.
    """
    LAST: tl.constexpr = len(SIZES) - 2
    DIMS: tl.constexpr = SIZES[0]
    CHANNELS: tl.constexpr = SIZES[LAST + 1]

    # The parameters, and zeros for their gradients.
    first, first_sums, ahead, back, weight_sums, biases, bias_sums = (), (), (), (), (), (), ()
    for n in tl.static_range(LAST):
        neuron = tl.arange(0, WIDTHS[n + 1])
        bias = row + PLACES[n] + SIZES[n] * SIZES[n + 1]
        biases += (tl.load(bias + neuron, neuron < SIZES[n + 1], 0.0) * omega,)
        bias_sums += (tl.full((TILE // 2, WIDTHS[n + 1]), 0.0, tl.float32),)
    neuron = tl.arange(0, WIDTHS[1])
    for d in tl.static_range(DIMS):
        first += (tl.load(row + neuron * DIMS + d, neuron < SIZES[1], 0.0) * omega,)
        first_sums += (tl.full((TILE // 2, WIDTHS[1]), 0.0, tl.float32),)
    for n in tl.static_range(1, LAST):
        out, into = tl.arange(0, WIDTHS[n + 1]), tl.arange(0, WIDTHS[n])
        weight = row + PLACES[n]
        ahead += (
            _rounded(tl.trans(_load(weight, out, _order(into), SIZES[n + 1], SIZES[n])) * omega),
        )
        back += (_rounded(_load(weight, _order(out), into, SIZES[n + 1], SIZES[n]) * omega),)
        weight_sums += (tl.full((WIDTHS[n + 1], WIDTHS[n]), 0.0, tl.float32),)
    last, last_sums, offset_sums = (), (), ()
    neuron = tl.arange(0, WIDTHS[LAST])
    for c in tl.static_range(CHANNELS):
        last += (tl.load(row + PLACES[LAST] + c * SIZES[LAST] + neuron, neuron < SIZES[LAST], 0.0),)
        last_sums += (tl.full((TILE // 2, WIDTHS[LAST]), 0.0, tl.float32),)
        offset_sums += (tl.full((TILE,), 0.0, tl.float32),)
    squares = tl.full((TILE,), 0.0, tl.float32)
    offsets = row + PLACES[LAST] + CHANNELS * SIZES[LAST]

    for start in tl.range(0, num_points, TILE, num_stages=1):
        point = start + tl.arange(0, TILE)
        inside = point < num_points
        # A product of zeros, which the compiler hoists out of the loop. It gives all that is added
        # to it the layout of tensor core results, so nothing is moved before the backward pass.
        zeros = tl.dot(
            tl.full((TILE, 16), 0.0, tl.float32), tl.full((16, WIDTHS[1]), 0.0, tl.float32)
        )
        phase = zeros + biases[0][None, :]
        axes = ()
        for d in tl.static_range(DIMS):
            axes += (tl.load(coordinates + point * DIMS + d, inside, 0.0),)
            phase += axes[d][:, None] * first[d][None, :]
        sine, cosine = _sine_cosine(phase)
        sines, cosines = (), (cosine,)
        for n in tl.static_range(1, LAST):
            sines += (_rounded(sine),)
            phase = (
                tl.dot(_ordered(sines[n - 1]), ahead[n - 1], input_precision="tf32")
                + biases[n][None, :]
            )
            sine, cosine = _sine_cosine(phase)
            cosines += (cosine,)

        delta = tl.full((TILE, WIDTHS[LAST]), 0.0, tl.float32)
        sums, more_offsets = (), ()
        for c in tl.static_range(CHANNELS):
            value = tl.sum(sine * last[c][None, :], 1) + tl.load(offsets + c)
            residual = tl.where(
                inside, value - tl.load(targets + c * num_points + point, inside, 0.0), 0.0
            )
            squares += residual * residual
            residual *= 2.0 / (num_points * CHANNELS)
            more_offsets += (offset_sums[c] + residual,)
            sums += (last_sums[c] + _folded(residual[:, None] * sine),)
            delta += residual[:, None] * last[c][None, :]
        last_sums, offset_sums = sums, more_offsets

        delta *= cosines[LAST - 1] * omega
        sums, more_biases = (), ()
        for i in tl.static_range(1, LAST):
            more_biases = (bias_sums[LAST - i] + _folded(delta),) + more_biases
            delta = _rounded(delta)
            sums = (
                tl.dot(
                    tl.trans(delta),
                    sines[LAST - i - 1],
                    weight_sums[LAST - i - 1],
                    input_precision="tf32",
                ),
            ) + sums
            delta = (
                tl.dot(_ordered(delta), back[LAST - i - 1], input_precision="tf32")
                * cosines[LAST - i - 1]
            )
        weight_sums, bias_sums = sums, (bias_sums[0] + _folded(delta),) + more_biases
        sums = ()
        for d in tl.static_range(DIMS):
            sums += (first_sums[d] + _folded(delta * axes[d][:, None]),)
        first_sums = sums

    for n in tl.static_range(LAST):
        neuron = tl.arange(0, WIDTHS[n + 1])
        bias = gradient + PLACES[n] + SIZES[n] * SIZES[n + 1]
        tl.store(bias + neuron, tl.sum(bias_sums[n], 0), neuron < SIZES[n + 1])
    neuron = tl.arange(0, WIDTHS[1])
    for d in tl.static_range(DIMS):
        tl.store(gradient + neuron * DIMS + d, tl.sum(first_sums[d], 0), neuron < SIZES[1])
    for n in tl.static_range(1, LAST):
        out, into = tl.arange(0, WIDTHS[n + 1])[:, None], tl.arange(0, WIDTHS[n])[None, :]
        inside = (out < SIZES[n + 1]) & (into < SIZES[n])
        tl.store(gradient + PLACES[n] + out * SIZES[n] + into, weight_sums[n - 1], inside)
    neuron = tl.arange(0, WIDTHS[LAST])
    for c in tl.static_range(CHANNELS):
        tl.store(
            gradient + PLACES[LAST] + c * SIZES[LAST] + neuron,
            tl.sum(last_sums[c], 0),
            neuron < SIZES[LAST],
        )
        tl.store(gradient + PLACES[LAST] + CHANNELS * SIZES[LAST] + c, tl.sum(offset_sums[c], 0))
    return tl.sum(squares, 0) / (num_points * CHANNELS)


@triton.jit
def _load(start, row, column, NUM_ROWS: tl.constexpr, NUM_COLUMNS: tl.constexpr):
    """Rows and columns of a matrix in memory, zero outside it."""
    inside = (row < NUM_ROWS)[:, None] & (column < NUM_COLUMNS)[None, :]
    return tl.load(start + row[:, None] * NUM_COLUMNS + column[None, :], inside, 0.0)


@triton.jit
def _sine_cosine(x):
    """Sine and cosine of x = 2 pi n + r from r, on the special function units.

    The error is 2^-20 plus that of rounding x.
    """
    ROUND: tl.constexpr = (
        12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in the mantissa
    )
    turns = (x * 0.15915494309189535 + ROUND) - ROUND
    r = x - turns * 6.283185307179586
    if ON_CHIP:
        return libdevice.fast_sinf(r), libdevice.fast_cosf(r)
    else:
        return tl.sin(r), tl.cos(r)


@triton.jit
def _rounded(x):
    """x rounded to TF32: a tensor core ignores the last 13 bits, so half their range is added.

    This may lose a NaN, which still spreads through biases, slopes and errors, all unrounded.
    """
    bits = x.to(tl.int32, bitcast=True) + 0x1000
    if not ON_CHIP:
        bits &= -0x2000
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _order(i):
    """The order of columns that `_ordered` makes."""
    return i // 8 * 8 + i % 4 * 2 + i % 8 // 4


@triton.jit
def _ordered(x):
    """The result of a tensor core, with each eight columns reordered for use as a left factor.

    Each value stays in its thread, so this is free. The right factor has its rows in this order.
    """
    return (
        x.reshape(x.shape[0], x.shape[1] // 8, 4, 2)
        .permute(0, 1, 3, 2)
        .reshape(x.shape[0], x.shape[1])
    )


@triton.jit
def _folded(x):
    """Half as many rows: sums of the two rows that a thread holds."""
    return tl.sum(x.reshape(x.shape[0] // 16, 2, 8, x.shape[1]), 1).reshape(
        x.shape[0] // 2, x.shape[1]
    )
