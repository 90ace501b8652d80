"""The training of workers on a GPU: DeepSpeed's engine, every way of running a step, a resume."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist

from flows.recipes import digits
from pipeline.archive.zoo import Zoo
from pipeline.tasks import Classification
from pipeline.tasks.augmentation import Augmentation
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import Worker, train_loop
from tests.gpu.row import Row
from tests.gpu.training import digits_zoo

EPOCHS, RESUMED_AT = 4, 2
RUNS = {
    "eager": {},
    "ZeRO 2": {"zero_stage": 2},
    "ZeRO 3": {"zero_stage": 3},
    "compiled": {"compile": True},
    "compiled, bf16, ZeRO 1, average": {
        "compile": True,
        "precision": "bf16",
        "zero_stage": 1,
        "ema_decay": 0.9,
    },
}
"""Ways of running the same training."""
APART = 0.05
"""Most by which their accuracies after some epochs may differ from the first's."""


@contextmanager
def process_group(folder: Path) -> Iterator[None]:
    """A group of this process alone."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", init_method=f"file://{folder}/group", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def engine() -> Iterator[Row]:
    """Speed, memory, utilization and accuracy of the trainer with the digits zoo."""
    if not find_spec("deepspeed"):
        yield Row("engine", "DeepSpeed is not installed: not run")
        return
    augmentation = Augmentation(signs=True, shift=0.05, noise=0.02)
    config = digits().training.model_copy(
        update={"epochs": EPOCHS, "task": Classification(augmentation=augmentation)}
    )
    with TemporaryDirectory() as folder, process_group(Path(folder)):
        zoo, _ = digits_zoo(Path(folder) / "zoo")
        first = None
        for name, fields in RUNS.items():
            lines = metrics_of(zoo, Path(folder) / name, config.model_copy(update=fields))
            last, accuracy = lines[-1], lines[-1]["validation"]["accuracy"]
            first = first or accuracy
            yield Row(
                f"engine, {name}: {EPOCHS} epochs, resumed once",
                f"{accuracy:.1%} validation accuracy, {last['models_per_second']:,.0f} models/s, "
                f"{last['data_seconds'] / last['step_seconds']:.1%} of a step waiting for data, "
                f"{last['gpu_memory_bytes'] / 2**20:,.0f} MiB, "
                f"MFU {last['model_flops_utilization']:.2%}, {last['skipped_steps']} skipped",
                f"within {APART:.0%} of {first:.1%}",
                len(lines) == EPOCHS and abs(accuracy - first) <= APART,
            )


def metrics_of(zoo: Zoo, run: Path, config: TrainingConfig) -> list[dict]:
    """The lines of metrics.jsonl of a training to the middle that is then continued to the end."""
    run.mkdir()
    worker, prepared = Worker(0, 1, on_gpu=True), Classification().prepare(zoo)
    for epochs in (RESUMED_AT, EPOCHS):
        train_loop(zoo, run, config.model_copy(update={"epochs": epochs}), prepared, worker)
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
