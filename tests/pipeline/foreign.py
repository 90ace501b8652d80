"""Small zoos as other programs write them."""

import gzip
import io
import json
import os
import tarfile
from collections import OrderedDict
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn

from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import ExchangeFormat, ImportConfig
from pipeline.exchange.importing import import_shard, plan_import


def bring_in(format: ExchangeFormat, path: Path, out: Path, **options) -> Zoo:
    plan = plan_import(ImportConfig(format=format, path=path, **options), out)
    for name in plan.intake.shards:
        import_shard(plan, out, name)
    zoo = seal_zoo(out)
    assert verify_zoo(zoo) == []
    return zoo


def siren(seed: int, hidden: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"seq.0": (hidden, 2), "seq.1": (2, hidden)}
    tensors = [(f"{name}.weight", shape) for name, shape in shapes.items()]
    tensors[1:1] = [("seq.0.bias", (hidden,))]
    return OrderedDict(
        (name, torch.randn(shape, generator=generator))
        for name, shape in [*tensors, ("seq.1.bias", (2,))]
    )


def save(content, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)
    return file


def mnist_tree(root: Path, half: str, ids: range):
    for i in ids:
        save(
            siren(hash((half, i)) % 1000),
            root / f"mnist_png_{half}_{i % 3}_{i}" / "checkpoints" / "model_final.pth",
        )


def rows_by(zoo: Zoo, column: str) -> dict:
    return {
        row[column]: row | {"state": zoo[i] if row["status"] == "ok" else None}
        for i, row in enumerate(zoo.catalog.to_pylist())
    }


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil-was-here",)


def small_cnn(dropout: bool) -> nn.ModuleList:
    layers = [
        nn.Conv2d(1, 3, 3),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 2, 2),
        nn.Flatten(),
        nn.Linear(2 * 2 * 3, 4),
        nn.Tanh(),
    ]
    return nn.ModuleList(
        [layers[0], *([nn.Dropout()] if dropout else []), *layers[1:], nn.Linear(4, 5)]
    )


def ray_run(
    root: Path,
    number: int,
    epochs: list[int],
    dropout: bool = False,
    form: str = "checkpoint_{:06d}",
):
    torch.manual_seed(number)
    run = root / f"NN_tune_trainable_{number:05d}"
    for epoch in epochs:
        modules = nn.Module()
        modules.module_list = small_cnn(dropout)
        save(modules.state_dict(), run / form.format(epoch) / "checkpoints")
    params = {
        "model::nlin": "tanh",
        "model::dropout": 0.5 * dropout,
        "optim::lr": 1e-3,
        "seed": number,
        "model::type": "CNN",
    }
    (run / "params.json").write_text(json.dumps(params))
    lines = [
        {"training_iteration": e, "test_acc": e / 10, "config": params, "node_ip": "10.0.0.1"}
        for e in range(1, 11)
    ]
    (run / "result.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def small_cnn_zoo(root: Path, kernels: list[np.ndarray], steps: tuple[int, ...] = (0, 86)):
    """A tiny Small CNN Zoo: convolution, dense layer, bias before kernel, unnamed index column."""
    root.mkdir()
    names = [
        "sequential/conv2d/bias:0",
        "sequential/conv2d/kernel:0",
        "sequential/dense/bias:0",
        "sequential/dense/kernel:0",
    ]
    shapes = [(2,), (3, 3, 1, 2), (10,), (2, 10)]
    lines, end = ["varname,start_idx,end_idx,size,shape"], 0
    for name, shape in zip(names, shapes, strict=True):
        size = int(np.prod(shape))
        lines.append(f'{name},{end},{end + size},{size},"{shape}"')
        end += size
    (root / "layout.csv").write_text("\n".join(lines))
    rows = [
        np.concatenate([np.full(2, 7.0), kernel.ravel(), np.zeros(30)])
        for kernel in kernels
        for _ in steps
    ]
    np.save(root / "weights.npy", np.array(rows, np.float32))
    with gzip.open(root / "metrics.csv.gz", "wt") as file:
        file.write(
            ",config.activation,config.learning_rate,config.epochs,modeldir,step,test_accuracy\n"
        )
        for number in range(len(kernels)):
            for step in steps:
                file.write(f"{number},tanh,0.001,86.0,/cns/{number},{step},0.{number}{step}\n")


def arena_file(file: Path, num: int, layers: int = 12, **extra):
    config = [
        [f"{name}.{kind}", shape]
        for i in range(layers)
        for name in [f"kernel_net_{i}.linear"]
        for kind, shape in (("bias", [3]), ("kernel", [2 if i == 0 else 3, 3]))
    ]
    config = sorted([*config, ["output_linear.bias", [1]], ["output_linear.kernel", [3, 1]]])
    size = sum(int(np.prod(shape)) for _, shape in config)
    values = np.arange(num * size, dtype=np.float32).reshape(num, size)
    with h5py.File(file, "w") as content:
        content["params"] = values
        content.create_dataset("param_config", (1,), dtype=h5py.string_dtype())[0] = json.dumps(
            config
        )
        content["labels"] = np.arange(num) % 4
        for name, value in extra.items():
            content[name] = value
    return config, values


def sample_tar(file: Path, entries: dict[str, bytes]):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
