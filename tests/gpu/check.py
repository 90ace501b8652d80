"""What no CPU can show: `python -m tests.gpu.check [OUT.json]` on a machine with an NVIDIA GPU.

Correctness first, then speed with its quality beside it. Needs torch with Triton, NumPy, PyArrow,
pydantic, safetensors, jaxtyping, WebDataset and scikit-learn; neither Ray nor DeepSpeed nor Prefect.
Prints one table, writes it as JSON; exit code 1 where a check fails.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dwsnet import EquivariantAttention, EquivariantLinear, InvariantLinear, WeightSpace
from dwsnet.models import DWSNetClassifier
from dwsnet.testing import equivariance_error, random_features
from flows.recipes import digits, dws_mnist
from pipeline.archive.build import fit_shard, plan_zoo, seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import FitConfig, InrConfig
from pipeline.fit import adam
from pipeline.fit.gpu import load_gpu_kernel
from pipeline.fit.seeds import member_keys
from pipeline.fit.siren import init_rows, inr_space
from pipeline.signals import coordinates
from pipeline.tasks import classification
from pipeline.training.engine import learning_rate_factor
from pipeline.training.loader import epoch_batches, num_batches, split_batches

GPU = torch.device("cuda")
SPACES = {"2-5-3-4": WeightSpace.mlp((2, 5, 3, 4)), "3-7-2": WeightSpace.mlp((3, 7, 2))}
POOLINGS = ("mean", "sum", "max", "attention")
NETS = {
    "2-16-16-1": ((16, 16), (8, 8), 1),
    "2-24-16-3": ((24, 16), (7, 9), 3),
    "1-33-1": ((33,), (64,), 1),
    "3-7-20-5-2": ((7, 20, 5), (4, 3, 7), 2),
    "2-128-128-3": ((128, 128), (16, 16), 3),
}
"""Hidden widths, grid and channels of nets that the kernel fits."""
BATCH, STEPS = 512, 10
DIGITS_ACCURACY = 0.83
"""What the digits recipe reaches on CPUs is 0.85."""


@dataclass(frozen=True)
class Row:
    """A line of the table: what was looked at, what was found, and what it should be."""

    what: str
    found: str
    wanted: str = ""
    ok: bool = True


def seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def bounded(what: str, error: float, bound: float) -> Row:
    return Row(what, f"{error:.1e}", f"at most {bound:.0e}", bool(error <= bound))


def problem(hidden: tuple[int, ...], grid: tuple[int, ...], channels: int, members: int = 64):
    """A fit of noise: weight space, net, initial rows, points and targets."""
    inr = InrConfig(hidden=hidden)
    space = inr_space(inr, len(grid), channels)
    keys = member_keys(3, torch.arange(members).numpy(), torch.zeros(members).int().numpy())
    points = torch.from_numpy(coordinates(grid))
    noise = torch.rand(members, channels, len(points), generator=torch.Generator().manual_seed(0))
    return space, inr, init_rows(space, inr, keys), points, noise - 0.5


def kernel_gradients() -> Iterator[Row]:
    """The fit kernel's gradient against double precision: TF32 rounds to 2^-11."""
    for net, (hidden, grid, channels) in NETS.items():
        space, inr, rows, points, targets = problem(hidden, grid, channels)
        wanted, _ = adam.gradients(space, inr, rows.double(), points.double(), targets.double())
        moved = rows.to(GPU, copy=True)
        # So large an epsilon makes Adam's first step the gradient itself, times 2^20.
        load_gpu_kernel((len(grid), *hidden, channels))(
            (len(grid), *hidden, channels),
            points.to(GPU),
            targets.to(GPU),
            moved,
            torch.zeros(len(rows), dtype=torch.int64, device=GPU),
            omega=inr.omega,
            rates=torch.tensor([2.0**20 * 1e20], dtype=torch.float64),
            target_psnr=None,
            check_every=10,
            betas=(0.9, 0.999),
            epsilon=1e20,
        )
        gradient = (rows - moved.cpu()) / 2**20
        error = ((gradient - wanted).norm(dim=1) / wanted.norm(dim=1)).max().item()
        yield bounded(f"fit kernel {net}: gradient", error, 2e-3 if len(hidden) > 1 else 2e-5)


def kernel_fits() -> Iterator[Row]:
    """Whole fits by the kernel and by PyTorch: quality, and where the stop rule ends them."""
    zoo = digits().zoo
    images = torch.from_numpy(plan_signals()[:256]).flatten(1).unsqueeze(1)
    keys = member_keys(0, torch.arange(256).numpy(), torch.zeros(256).int().numpy())
    space, grid = inr_space(zoo.inr, 2, 1), torch.from_numpy(coordinates((8, 8)))
    for config in (zoo.fit, FitConfig(learning_rate=1e-3, max_steps=300, schedule="cosine")):
        ours = adam.fit(space, zoo.inr, config, keys, grid, images, "cuda")
        again = adam.fit(space, zoo.inr, config, keys, grid, images, "cuda")
        reference = adam.fit(space, zoo.inr, config, keys, grid, images, "cpu")
        name = f"fit of digits, target {config.target_psnr}, {config.schedule}"
        yield bounded(f"{name}: mean dB off", abs((ours.psnr - reference.psnr).mean()), 0.1)
        moved = abs((ours.steps - reference.steps).mean()) / reference.steps.mean()
        yield bounded(f"{name}: mean steps off", moved, 0.02)
        yield bounded(f"{name}: twice", (ours.rows - again.rows).abs().max().item(), 0.0)


def plan_signals():
    from pipeline.signals import load_signals

    return load_signals(digits().zoo.signals).values


def layers() -> Iterator[Row]:
    """Every layer in float64: equivariant on the GPU, and the same map as on the CPU."""
    builds = {
        f"linear, {pooling}": lambda space, p=pooling: EquivariantLinear(space, 3, 4, p)
        for pooling in POOLINGS
    }
    builds["attention"] = lambda space: EquivariantAttention(space, 3, 4, 2)
    for (net, space), (name, build) in product(SPACES.items(), builds.items()):
        layer = build(space).double()
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        there = deepcopy(layer).to(GPU)

        def on_gpu(features: Iterable[Tensor], there: nn.Module = there) -> tuple[Tensor, ...]:
            return tuple(y.cpu() for y in there(tuple(x.to(GPU) for x in features)))

        features = random_features(space, 3, 3, torch.Generator().manual_seed(0))
        both = zip(layer(features), on_gpu(features), strict=True)
        apart = max((a - b).abs().max().item() for a, b in both)
        error = apart + equivariance_error(space, on_gpu, 3)
        yield bounded(f"layer {name}, {net}: equivariance, CPU against GPU", error, 1e-9)
    yield from invariant()


def invariant() -> Iterator[Row]:
    for (net, space), pooling in product(SPACES.items(), POOLINGS):
        layer = InvariantLinear(space, 3, 4, pooling).double()
        features = random_features(space, 3, 3, torch.Generator().manual_seed(0))
        there = deepcopy(layer).to(GPU)(tuple(x.to(GPU) for x in features)).cpu()
        error = (layer(features) - there).abs().max().item()
        yield bounded(f"layer invariant, {pooling}, {net}: CPU against GPU", error, 1e-9)


def training_steps() -> Iterator[Row]:
    """Speed of a whole step on the corpus' net, and the loss after some: four ways, one start."""
    space = WeightSpace.mlp((2, 32, 32, 1))
    torch.manual_seed(0)
    model = DWSNetClassifier(space, 10, channels=32, num_layers=5, head_width=256).to(GPU)
    state = {spec.name: torch.randn(BATCH, *spec.shape, device=GPU) / 10 for spec in space.tensors}
    labels = torch.arange(BATCH, device=GPU) % 10
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(deepcopy(model)(state), labels).backward()
    first = None
    for compiled, dtype in product((False, True), (torch.float32, torch.bfloat16)):
        rate, loss, peak = train_steps(deepcopy(model), state, labels, compiled, dtype)
        first = first or loss
        name = f"training step, {'compiled' if compiled else 'eager'}, {str(dtype)[6:]}"
        flops = rate / BATCH * counter.get_total_flops()
        yield Row(
            name,
            f"{rate:,.0f} models/s, {peak:,.0f} MiB, {flops / 1e12:.2f} TFLOP/s "
            f"({flops / matmul_rate(dtype):.1%} of a large product's), loss {loss:.3f}",
            f"loss {first:.3f} within 5 %",
            abs(loss - first) <= 0.05 * first,
        )


def train_steps(
    model: nn.Module, state: dict[str, Tensor], labels: Tensor, compiled: bool, dtype: torch.dtype
) -> tuple[float, float, float]:
    """Models/s, the loss after `STEPS` steps from the start, and peak MiB."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    call = torch.compile(model, fullgraph=True, mode="reduce-overhead") if compiled else model

    def steps(count: int) -> Tensor:
        for _ in range(count):
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                loss = F.cross_entropy(call(state), labels)
            loss.backward()
            optimizer.step()
        return loss.detach().clone()

    loss = steps(STEPS).item()
    torch.cuda.reset_peak_memory_stats()
    took = min(seconds(lambda: steps(10)) for _ in range(5)) / 10
    return len(labels) / took, loss, torch.cuda.max_memory_allocated() / 2**20


def matmul_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product in this precision, here and now."""
    a, b = (torch.randn(4096, 4096, device=GPU, dtype=dtype) for _ in range(2))
    return 2 * 4096**3 / min(seconds(lambda: a @ b) for _ in range(10))


def training() -> Iterator[Row]:
    """The digits recipe from the fit to its accuracy, through a real archive, without DeepSpeed."""
    recipe = digits()
    with TemporaryDirectory() as folder:
        root = Path(folder)
        plan = plan_zoo(recipe.zoo, root)
        took = seconds(
            lambda: [
                fit_shard(recipe.zoo, root, plan.signals, shard, device="cuda")
                for shard in plan.shards
            ]
        )
        zoo = seal_zoo(root)
        yield Row("digits: fit and archive", f"{len(zoo) / took:,.0f} INRs/s")
        start = time.perf_counter()
        accuracy, rate = train_digits(zoo, recipe.training)
        yield Row(
            "digits: 18 epochs",
            f"{accuracy:.1%} test accuracy, {rate:,.0f} models/s, "
            f"{time.perf_counter() - start:.0f} s",
            f"at least {DIGITS_ACCURACY:.0%}",
            accuracy >= DIGITS_ACCURACY,
        )


def train_digits(zoo: Zoo, config) -> tuple[float, float]:
    """Test accuracy after the last epoch, and models/s of training with its loader."""
    torch.manual_seed(config.seed)
    num_classes = len(zoo.record.signals.class_names)
    model = classification.build_model(config.model, zoo.space, num_classes)
    model = classification.adapt_to(zoo, model).to(GPU)
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    total = num_batches(zoo, "train", config.batch_size) * config.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, total, config.warmup_fraction)
    )
    start = time.perf_counter()
    for epoch in range(1, config.epochs + 1):
        for batch in epoch_batches(zoo, "train", config.seed, epoch, config.batch_size):
            batch = batch.to(GPU)
            optimizer.zero_grad()
            classification.loss(model(batch.state), batch.labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            optimizer.step()
            schedule.step()
    torch.cuda.synchronize()
    rate = total * config.batch_size / (time.perf_counter() - start)
    model.eval()
    with torch.no_grad():
        sums = sum(
            classification.totals(model(batch.state), batch.labels)
            for batch in (batch.to(GPU) for batch in split_batches(zoo, "test"))
        )
    count, _, correct = sums.tolist()
    return correct / count, rate


def corpus() -> Iterator[Row]:
    """70,000 fits by the dws-mnist recipe, on digits drawn 28x28."""
    from tests.bench import fit, fit_gpu

    recipe = dws_mnist().zoo
    roof = fit_gpu.sines_per_second() / (2 * fit.step_operations()[1])
    keys, targets = fit.keys(fit_gpu.AIM), fit.signals(fit_gpu.AIM)
    adam.fit(fit.SPACE, recipe.inr, recipe.fit, keys[:64], fit.GRID, targets[:64], "cuda")
    fitted = []
    took = seconds(
        lambda: fitted.append(
            adam.fit(fit.SPACE, recipe.inr, recipe.fit, keys, fit.GRID, targets, "cuda")
        )
    )
    rate = len(targets) * recipe.fit.max_steps / took
    yield Row(
        f"dws-mnist: {len(targets):,} INRs",
        f"{took:.1f} s, {len(targets) / took:,.0f} INRs/s, {rate:,.0f} steps/s, "
        f"{rate / roof:.0%} of the ceiling of sines, {fitted[0].psnr.mean():.2f} dB",
        f"{fit_gpu.SECONDS:.0f} s (an aim)",
    )


CHECKS = (kernel_gradients, kernel_fits, layers, training_steps, training, corpus)


def run(check: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """The rows of a check; one that failed where it raised."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001  the other checks are to run all the same
        traceback.print_exc()
        yield Row(check.__name__, f"{type(error).__name__}: {error}"[:200], "no error", False)


def main(out: str | None = None) -> int:
    if not torch.cuda.is_available():
        print(f"PyTorch {torch.__version__} sees no GPU here: nothing to check")
        return 2
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    rows, start = [], time.perf_counter()
    for check in CHECKS:
        for row in run(check):
            rows.append(row)
            mark = "ok  " if row.ok else "FAIL"
            print(
                f"{mark} {row.what:<60} {row.found}"
                + (f" (wanted: {row.wanted})" if row.wanted else ""),
                flush=True,
            )
        print(f"     {check.__name__}: {time.perf_counter() - start:.0f} s so far", flush=True)
    if out is not None:
        Path(out).write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return int(not all(row.ok for row in rows))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
