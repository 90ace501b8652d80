"""The Ray tree of the ModelZoos: one folder per run, one checkpoint per epoch.

`RUN/params.json` (`model::nlin`, `optim::lr`, ..., `seed`), `RUN/result.json` (one line per epoch:
`training_iteration`, `train_acc`, `test_loss`, ...), `RUN/checkpoint_{epoch:06d}/checkpoints` (a
state dict, `module_list.{i}.weight`). Readers of this layout index the lines of `result.json` by
epoch, so every epoch has one.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.archive.files import json_text
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.exchange.layers import layout_for
from pipeline.exchange.outgoing import SAFE, exported_blocks, file_name
from pipeline.exchange.pickled import load, save
from pipeline.exchange.rows import table_of
from pipeline.exchange.source import (
    Found,
    Loaded,
    Source,
    common_layout,
    load_states,
    read_json,
    read_text,
)
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
"""Our names of columns, and those in params.json."""
RESULTS = {"epoch": EPOCH} | {
    f"{split}_{metric}": f"{short}_{end}"
    for split, short in (("train", "train"), ("validation", "val"), ("test", "test"))
    for metric, end in (("loss", "loss"), ("accuracy", "acc"))
}
"""Our names of columns, and those in result.json."""
NOT_KEPT = ("config", "hostname", "node_ip", "pid")
"""Fields of result.json that are dropped: a copy of params.json, and the machine."""
CHECKPOINT = re.compile(r"checkpoint_(\d+)")


def write(zoo: Zoo, out: Path, advance: Advance):
    """Write one folder per `run`; in a zoo without runs, each member is a run of one epoch.

    A folder has the name of its run, or its number if one of the names is not a safe file name.
    """
    named = "run" not in zoo.catalog.column_names or all(
        SAFE.fullmatch(str(run)) for run in zoo.catalog["run"].unique().to_pylist()
    )
    layout = layout_for(zoo.space, lambda i, _: f"module_list.{i}", ".weight", ".bias")
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for _, block, table in exported_blocks(zoo):
        tensors = {name: torch.from_numpy(array) for name, array in layout.theirs(block).items()}
        for position, row in enumerate(table.to_pylist()):
            run = str(row.get("run") or row["key"]) if named else f"{row['source_index']:08d}"
            run, epoch = file_name(run), row.get("epoch") or 0
            if runs.setdefault(run, {}).setdefault(epoch, row) is not row:
                raise InputError(
                    f"run {run} of zoo {zoo.folder} has two members of epoch {epoch}, a Ray tree "
                    "can only have one"
                )
            folder = out / run / f"checkpoint_{epoch:06d}"
            folder.mkdir(parents=True)
            state = {name: tensor[position] for name, tensor in tensors.items()}
            save(state, folder / "checkpoints")
        advance(len(table))
    for run, epochs in runs.items():
        write_run(out / run, epochs)


def write_run(folder: Path, epochs: dict[int, dict[str, Any]]):
    """Write values common to all epochs to params.json, and the others to result.json.

    The line of an epoch without a checkpoint has only its number.
    """
    rows = list(epochs.values())
    common = {
        name: value
        for name, value in sorted(rows[0].items())
        if name not in RESULTS and all(row[name] == value for row in rows)
    }
    (folder / "params.json").write_text(
        json_text({CONFIG.get(name, name): value for name, value in common.items()})
    )
    lines = []
    for epoch in range(min(1, *epochs), max(epochs) + 1):
        row = {
            RESULTS.get(name, name): value
            for name, value in sorted(epochs.get(epoch, {}).items())
            if name not in common
        }
        lines.append(json_text(row | {EPOCH: epoch}))
    (folder / "result.json").write_text("\n".join(lines) + "\n")


def read(path: Path) -> Source:
    """Open the folder of the runs. Members of a run without a readable params.json are failures."""
    folders = sorted(path.iterdir()) if path.is_dir() else []
    runs = [run for run in folders if is_run(run)]
    members, left_out = [], []
    for run in runs:
        found, left = members_of_run(run)
        members += found
        left_out += left
    if not members:
        raise InputError(
            f"{path} must have folders with params.json and checkpoint_NNNNNN/checkpoints, found "
            "none"
        )
    files = [member.place for member in members]
    problems = {i: member.problem for i, member in enumerate(members) if member.problem}
    layout = common_layout(path, map(load, files))

    def read_rows(index: np.ndarray) -> Loaded:
        return load_states(layout, [load(files[i]) for i in index])

    texts = [run / name for run in runs for name in ("params.json", "result.json")]
    read_files = [file for file in (*files, *texts) if file is not None and file.is_file()]
    rows = table_of([member.row for member in members])
    return Source(rows, layout, read_rows, read_files, problems, left_out)


def is_run(folder: Path) -> bool:
    if folder.name.startswith(".") or not folder.is_dir():
        return False
    return (folder / "params.json").is_file() or bool(checkpoints_of(folder))


def checkpoints_of(run: Path) -> list[tuple[int, Path]]:
    """Epoch and folder of each checkpoint, ordered by epoch."""
    folders = ((CHECKPOINT.fullmatch(folder.name), folder) for folder in run.glob("checkpoint_*"))
    return sorted((int(match[1]), folder) for match, folder in folders if match)


def members_of_run(run: Path) -> tuple[list[Found], list[str]]:
    """One member per checkpoint, and the problems of the run's files."""
    problem = None
    try:
        params = read_json(run / "params.json")
        if not isinstance(params, dict):
            raise InputError(
                f"{run / 'params.json'} must hold a configuration, found {str(params)[:60]}"
            )
    except InputError as error:
        params, problem = {}, str(error)
    ours = {theirs: name for name, theirs in (CONFIG | RESULTS).items()}
    results, problems = read_results(run / "result.json")
    members = []
    for epoch, folder in checkpoints_of(run):
        row = {**params, **results.get(epoch, {}), EPOCH: epoch}
        named = {ours.get(name, name): value for name, value in row.items() if name not in NOT_KEPT}
        if "source_index" in named and "run" not in named:  # exported from a zoo without runs
            del named["epoch"]
        else:
            named = {"run": run.name, "group": run.name} | named
        file = folder / "checkpoints"
        members.append(
            Found(
                named | {"source": f"{run.name}/{folder.name}"},
                file if file.is_file() else None,
                problem,
            )
        )
    return members, problems if members else [*problems, f"{run} has no checkpoint"]


def read_results(file: Path) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """The lines of result.json by epoch, and the problems of other lines.

    There are no lines if the file is missing: the run crashed before its first epoch ended.
    """
    lines, problems = {}, []
    try:
        texts = read_text(file).splitlines() if os.path.lexists(file) else []
    except InputError as error:
        return {}, [f"{error}: its epochs are not known"]
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            # Ray writes NaN of NumPy's float32 as the text "null".
            lines[int(line[EPOCH])] = {
                name: None if value == "null" and name in RESULTS.values() else value
                for name, value in line.items()
            }
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ):
            problems.append(
                f"{file} must hold one JSON object per line with {EPOCH!r}, found none in line "
                f"{number}: its epoch is not known"
            )
    return lines, problems
