"""The fit on a GPU: one Triton program fits one member, many Adam steps a launch.

The points go through the network in tiles of 16, whose activations, slopes and gradients live in registers. Parameters,
momentum and variance are read and written once a step, from caches: a member takes 19 kB. A program ends as soon as its
member has reached its target, and the GPU starts the next one in its place; between launches finished members leave the
list, so that the last launches are as small as what is left.

Precision: products of hidden layers on the tensor cores, operands rounded to TF32, sums in float32. The first layer, of
which omega would make phase errors, the last one and all else are float32. With that rounding, imitated on a CPU, 16 digits
of 28x28 come to 34.6 dB in the 1,500 steps of dws-mnist, and to 34.7 without; SIREN's initialisation to 60.8 and 60.9 dB
with a cosine, and to 58.4 and 61.2 with a constant rate.

Measured on an H200 with Triton 3.6: 9.4 M steps/s of 2-32-32-1 on 784 points, 24 % of what its
sines alone would allow; gradients are within 1.7e-3 of double precision, and fits end at the same dB
and steps as on a CPU (`python -m tests.gpu.check`).

Arithmetic for an H200, of a step as compiled for sm_90 by Triton 3.7.1:

* 37,800 instructions of a warp, 255 registers a thread, none spilled, 10 kB of shared memory: eight members on a
  multiprocessor. Four schedulers issue one each a clock: 9,400 clocks.
* 50,176 pairs of sine and cosine. On the special function units, 16 a clock: 6,300 clocks, beside the rest; six of the
  instructions above are for a pair, three of them to take off whole turns. The polynomials of kernel.cpp are 18
  instructions a pair, 4,700 clocks more for the schedulers, which have less to spare than those units.
* 132 multiprocessors at 1.98 GHz: at most 28 M steps/s. The compiler's stall counts, replayed with two warps a scheduler
  and usual latencies, fill 60 % of the slots: 17 M, which is 70,000 INRs of 1,500 steps in 6 s.
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
"""Points in flight: the least that tensor cores take."""
STEPS = 500
"""Adam steps a launch, some tenths of a second for a shard: until then Ctrl-C waits."""
MAX_WIDTH, MAX_CHANNELS = 128, 8
ON_CHIP = tl.constexpr(not triton.knobs.runtime.interpret)


def gpu() -> tuple[int, int]:
    """Compute capability of the GPU, 90 for Hopper and 0 where it is not NVIDIA's, and its shared memory for a program."""
    driver = triton.runtime.driver.active
    target = driver.get_current_target()
    memory = driver.utils.get_device_properties(driver.get_current_device())["max_shared_mem"]
    return target.arch if target.backend == "cuda" else 0, memory


def why_not(sizes: tuple[int, ...], capability: int, shared_memory: int) -> str | None:
    """Why a net has no kernel on a GPU; None where it has one."""
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
    """At most so much shared memory: weights between hidden layers in two orders, and room to transpose a tile."""
    widths = padded(sizes)
    return 8 * sum(a * b for a, b in pairwise(widths)) + 8 * TILE * sum(widths)


def padded(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Widths of the hidden layers as the kernel holds them."""
    return tuple(max(16, triton.next_power_of_2(size)) for size in sizes[1:-1])


def constants(sizes: tuple[int, ...]) -> dict[str, Any]:
    """What the kernel is compiled for: the net, and where in a row the parameters of each layer begin."""
    places = accumulate(((a + 1) * b for a, b in pairwise(sizes)), initial=0)
    return {
        "SIZES": tuple(sizes),
        "WIDTHS": (0, *padded(sizes)),
        "PLACES": tuple(places),
        "TILE": TILE,
    }


def options(sizes: tuple[int, ...]) -> dict[str, int]:
    """One warp while its registers hold a tile, for it waits for no other; beyond that one for every 16 neurons."""
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
    """As `pipeline.fit.kernel.Kernel.fit_members`, on tensors of a GPU."""
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
            active, coordinates, targets, rows, *state, steps, rate, unbias, end, len(coordinates), threshold, omega,
            **constants(sizes), CHECK_EVERY=check_every, BETA1=betas[0], BETA2=betas[1], EPSILON=epsilon, **options(sizes),
        )  # fmt: skip
        active = active[steps[active] == end]


@triton.jit(do_not_specialize=["end", "num_points"])
def _fit(
    active, coordinates, targets, rows, momentum, variance, gradient, steps, rates, unbiases, end, num_points, threshold, omega,
    SIZES: tl.constexpr, WIDTHS: tl.constexpr, PLACES: tl.constexpr, TILE: tl.constexpr, CHECK_EVERY: tl.constexpr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPSILON: tl.constexpr,
):  # fmt: skip
    """Take one of the `active` members to step `end`, or to where the error of the weights as they are is at the threshold."""
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
            # Other threads read in the next step what these write, and the compiler watches shared memory only.
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

    Layer n maps neurons n, 0 the coordinates, to neurons n + 1. Tuples hold one tensor a layer: loops over layers
    are unrolled. Weights, biases and phases have omega in them already.
    """
    LAST: tl.constexpr = len(SIZES) - 2
    DIMS: tl.constexpr = SIZES[0]
    CHANNELS: tl.constexpr = SIZES[LAST + 1]

    # What a step needs of the parameters, and zeros for their gradients.
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
        # A product of zeros, computed once before the loop: it makes the compiler lay out all that is added to it as
        # tensor cores leave their results, and nothing has to change its place before the backward pass.
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
    """Rows and columns of a matrix in memory, zero where it has none."""
    inside = (row < NUM_ROWS)[:, None] & (column < NUM_COLUMNS)[None, :]
    return tl.load(start + row[:, None] * NUM_COLUMNS + column[None, :], inside, 0.0)


@triton.jit
def _sine_cosine(x):
    """Both of x = 2 pi n + r from r, to 2^-20 and the rounding of x, on the special function units."""
    ROUND: tl.constexpr = (
        12582912.0  # 1.5 * 2^23: what is left in the mantissa is the nearest integer
    )
    turns = (x * 0.15915494309189535 + ROUND) - ROUND
    r = x - turns * 6.283185307179586
    if ON_CHIP:
        return libdevice.fast_sinf(r), libdevice.fast_cosf(r)
    else:
        return tl.sin(r), tl.cos(r)


@triton.jit
def _rounded(x):
    """x for a tensor core, which takes no notice of the last 13 bits: half of what they can count is added.

    A NaN may get lost here. It still spreads: biases, slopes and errors are not rounded.
    """
    bits = x.to(tl.int32, bitcast=True) + 0x1000
    if not ON_CHIP:
        bits &= -0x2000
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _order(i):
    """In which order `_ordered` puts columns."""
    return i // 8 * 8 + i % 4 * 2 + i % 8 // 4


@triton.jit
def _ordered(x):
    """The columns of a tensor core's result, reordered in their eights so that each is where it must be as a left factor.

    To which thread a value belongs does not change: this costs nothing. The right factor has its rows in the same order.
    """
    return (
        x.reshape(x.shape[0], x.shape[1] // 8, 4, 2)
        .permute(0, 1, 3, 2)
        .reshape(x.shape[0], x.shape[1])
    )


@triton.jit
def _folded(x):
    """Half as many rows: sums of the two that one thread holds."""
    return tl.sum(x.reshape(x.shape[0] // 16, 2, 8, x.shape[1]), 1).reshape(
        x.shape[0] // 2, x.shape[1]
    )
