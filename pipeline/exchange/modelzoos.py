"""The Ray tree of the ModelZoos: a folder a run, a checkpoint an epoch.

`RUN/params.json` (`model::nlin`, `optim::lr`, ..., `seed`), `RUN/result.json` (a line an epoch: `training_iteration`,
`train_acc`, `test_loss`, ...), `RUN/checkpoint_{epoch:06d}/checkpoints` (a state dict, `module_list.{i}.weight`). Readers of
that layout pick line `epoch` of `result.json` by its position, so every epoch has one.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.archive.files import json_text
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.exchange.dwsnets import load
from pipeline.exchange.layers import layout_for, layout_of
from pipeline.exchange.outgoing import exported_blocks, exported_rows, file_name
from pipeline.exchange.rows import table_of
from pipeline.exchange.source import Loaded, Source, load_states, read_json, read_text
from pipeline.progress import Advance

EPOCH = "training_iteration"
CONFIG = {
    "activation": "model::nlin",
    "init": "model::init_type",
    "dropout": "model::dropout",
    "optimizer": "optim::optimizer",
    "learning_rate": "optim::lr",
    "weight_decay": "optim::wd",
    "epochs": "training::epochs_train",
}
"""Our names of columns, and theirs in params.json."""
RESULTS = {"epoch": EPOCH} | {
    f"{split}_{metric}": f"{short}_{end}"
    for split, short in (("train", "train"), ("validation", "val"), ("test", "test"))
    for metric, end in (("loss", "loss"), ("accuracy", "acc"))
}
"""The same in result.json."""
NOT_KEPT = ("config", "hostname", "node_ip", "pid")
"""Of a line of result.json: params.json again, and whose machine it was."""
CHECKPOINT = re.compile(r"checkpoint_(\d+)")


def write(zoo: Zoo, out: Path, advance: Advance):
    """Members of one `run` share a folder; where the zoo has no runs, each member is one of a single epoch."""
    layout = layout_for(zoo.space, lambda i, _: f"module_list.{i}", ".weight", ".bias")
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for _, block, table in exported_blocks(zoo):
        tensors = {name: torch.from_numpy(array) for name, array in layout.theirs(block).items()}
        for position, row in enumerate(exported_rows(table).to_pylist()):
            run, epoch = file_name(str(row.get("run") or row["key"])), row.get("epoch") or 0
            if runs.setdefault(run, {}).setdefault(epoch, row) is not row:
                raise InputError(
                    f"run {run} of zoo {zoo.folder} has two members of epoch {epoch}, a Ray tree has room for one"
                )
            folder = out / run / f"checkpoint_{epoch:06d}"
            folder.mkdir(parents=True)
            # A view would be saved with the whole block behind it.
            torch.save(
                {name: tensor[position].clone() for name, tensor in tensors.items()},
                folder / "checkpoints",
            )
        advance(len(table))
    for run, epochs in runs.items():
        write_run(out / run, epochs)


def write_run(folder: Path, epochs: dict[int, dict[str, Any]]):
    """params.json has what is the same for all epochs, result.json the rest; an epoch without a checkpoint has a bare line."""
    rows = list(epochs.values())
    common = {
        name: value
        for name, value in rows[0].items()
        if name not in RESULTS and all(row[name] == value for row in rows)
    }
    (folder / "params.json").write_text(
        json_text({CONFIG.get(name, name): value for name, value in common.items()})
    )
    lines = []
    for epoch in range(min(1, *epochs), max(epochs) + 1):
        row = {
            RESULTS.get(name, name): value
            for name, value in epochs.get(epoch, {}).items()
            if name not in common
        }
        lines.append(json_text(row | {EPOCH: epoch}))
    (folder / "result.json").write_text("\n".join(lines) + "\n")


def read(path: Path) -> Source:
    """`path`: the folder of the runs."""
    runs = (
        sorted(folder for folder in path.iterdir() if (folder / "params.json").is_file())
        if path.is_dir()
        else []
    )
    rows = [row for run in runs for row in rows_of_run(run)]
    if not rows:
        raise InputError(
            f"{path} must have folders with params.json and checkpoint_NNNNNN/checkpoints, found none"
        )
    files = [row.pop("file") for row in rows]
    first = next((state for state in map(load, files) if not isinstance(state, str)), None)
    if first is None:
        raise InputError(
            f"{path} must have state dicts as checkpoints, found none that can be read among {len(files)}"
        )
    layout = layout_of([(name, tuple(tensor.shape)) for name, tensor in first.items()])

    def read_rows(index: np.ndarray) -> Loaded:
        return load_states(layout, [load(files[i]) for i in index])

    texts = [
        run / name
        for run in runs
        for name in ("params.json", "result.json")
        if (run / name).is_file()
    ]
    return Source(table_of(rows), layout, read_rows, [*files, *texts])


def rows_of_run(run: Path) -> Iterator[dict[str, Any]]:
    """A row a checkpoint. Raises InputError where params.json or result.json is not what it must be."""
    params = read_json(run / "params.json")
    if not isinstance(params, dict):
        raise InputError(
            f"{run / 'params.json'} must hold a configuration, found {str(params)[:60]}"
        )
    ours = {theirs: name for name, theirs in (CONFIG | RESULTS).items()}
    results = read_results(run / "result.json")
    for folder in sorted(run.glob("checkpoint_*")):
        file, match = folder / "checkpoints", CHECKPOINT.fullmatch(folder.name)
        if match and file.is_file():
            epoch = int(match[1])
            row = {**params, **results.get(epoch, {}), EPOCH: epoch}
            named = {
                ours.get(name, name): value for name, value in row.items() if name not in NOT_KEPT
            }
            yield (
                {"run": run.name, "group": run.name}
                | named
                | {"source": f"{run.name}/{folder.name}", "file": file}
            )


def read_results(file: Path) -> dict[int, dict[str, Any]]:
    """The lines of result.json by their epoch; no lines where the file is missing: the run crashed before its first."""
    lines = {}
    for number, text in enumerate(read_text(file).splitlines(), 1) if file.is_file() else ():
        try:
            line = json.loads(text)
            lines[int(line[EPOCH])] = {
                # Ray writes NaN of NumPy's float32 as the text.
                name: None if value == "null" else value
                for name, value in line.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{file} must hold one JSON object a line with {EPOCH!r}, found none in line {number} ({error!r})"
            ) from error
    return lines
