"""HDF5 files of fit-a-nef and the Neural Field Arena: `nefs_{start}-{end}.hdf5`, ranges of members.

`params` `(members, parameters)` float32; `param_config`, JSON `[[name, shape], ...]` in the order
of the columns, bias before kernel, kernels as in Flax `(in, out)`; `labels` `(members,)`;
`nef.json` with the kind of network and its `omega_0`. Other data sets with one value per member are
columns of the catalog. Splits are ranges of members, in the order train, validation, test.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.exchange.hdf5 import (
    NOT_READ,
    dataset,
    read_column,
    read_file,
    read_values,
    write_column,
)
from pipeline.exchange.layers import Layout, layout_for, layout_of, natural
from pipeline.exchange.outgoing import exported_blocks, num_exported
from pipeline.exchange.rows import together, with_source
from pipeline.exchange.source import MAX_TEXT, Loaded, Source, load_matrix, read_json
from pipeline.progress import Advance

FILE = re.compile(r"nefs_(\d+)-(\d+)\.hdf5")
MEMBERS = 5000
"""Members per file."""
ACTIVATIONS = {"SIREN": "sine", "MLP": "relu"}
"""Activation of the hidden layers, by the kind of network."""


def write(zoo: Zoo, out: Path, advance: Advance):
    require_known_network(zoo)
    layout = layout_for(
        zoo.space,
        flax_name(sum(len(spec.shape) > 1 for spec in zoo.space.tensors) - 1),
        ".kernel",
        ".bias",
    )
    columns = bias_first(layout)
    config = [[name, list(shape)] for name, shape in columns.items()]
    total, start, waiting = num_exported(zoo), 0, []
    for _, block, table in exported_blocks(zoo):
        tensors = layout.theirs(block)
        waiting.append(
            (
                np.concatenate([tensors[name].reshape(len(table), -1) for name in columns], 1),
                table,
            )
        )
        advance(len(table))
        while (
            ready := sum(len(values) for values, _ in waiting)
        ) >= MEMBERS or start + ready == total > start:
            values, rows = (
                np.concatenate([part for part, _ in waiting]),
                pa.concat_tables([part for _, part in waiting]),
            )
            end = start + min(MEMBERS, ready)
            write_file(
                out / f"nefs_{start}-{end}.hdf5", values[: end - start], rows[: end - start], config
            )
            waiting, start = [(values[end - start :], rows[end - start :])], end
    (out / "nef.json").write_text(json.dumps(network_of(zoo, columns), indent=2))


def require_known_network(zoo: Zoo):
    """Raises InputError for INRs that fit-a-nef would run as other functions."""
    contract = zoo.record.decode
    hidden = {*(contract.activations or ())[:-1]}
    if contract.image is None and (contract.frequencies or hidden - {*ACTIVATIONS.values()}):
        raise InputError(
            f"zoo {zoo.folder} must have INRs of sine or relu activations that take coordinates as "
            f"they are to be exported as fit-a-nef, found {contract.activation_in_words}: choose "
            "another --format"
        )


def flax_name(last: int):
    return lambda i, _: "output_linear" if i == last else f"kernel_net_{i}.linear"


def bias_first(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the format, in its order."""
    ordered = sorted(
        layout.tensors,
        key=lambda tensor: (natural(tensor.name.rsplit(".", 1)[0]), tensor.outputs_last),
    )
    return {tensor.theirs: tensor.their_shape for tensor in ordered}


def network_of(zoo: Zoo, columns: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The contents of `nef.json`, from which fit-a-nef's loader builds a network."""
    widths = [shape[-1] for name, shape in columns.items() if name.endswith(".kernel")]
    params = {"output_dim": widths[-1], "hidden_dim": widths[0], "num_layers": len(widths)}
    activation = (zoo.record.decode.activations or (None,))[0]
    name = next((name for name, theirs in ACTIVATIONS.items() if theirs == activation), activation)
    return {"name": name, "params": params | {"omega_0": zoo.record.decode.omega}}


def write_file(file: Path, values: np.ndarray, rows: pa.Table, config: list):
    text, data = h5py.string_dtype(), io.BytesIO()
    with h5py.File(data, "w") as content:
        content.create_dataset("params", data=values)
        content.create_dataset("param_config", (1,), dtype=text)[0] = json.dumps(config)
        for name in sorted(rows.column_names):
            write_column(content, "labels" if name == "label" else name, rows[name])
    file.write_bytes(
        data.getbuffer()
    )  # if HDF5 writes the file, the error for a full disk is misleading


def read(path: Path) -> Source:
    """Open the folder of the files.

    Files that cannot be read or whose networks differ from those of most files are left out.
    """
    files = [*path.glob("*.hdf5")] if path.is_dir() else []
    numbers = {file: int(match[1]) for file in files if (match := FILE.fullmatch(file.name))}
    ordered = sorted(numbers, key=lambda file: numbers[file])
    if not ordered:
        raise InputError(
            f"{path} must have files nefs_START-END.hdf5, found "
            f"{sorted(file.name for file in files)[:3]}"
        )
    others = sorted(set(files) - set(ordered))
    left_out = [f"{file} is not called nefs_START-END.hdf5" for file in others]
    configs, config = configs_of(ordered, left_out)
    slices, layout = columns_of(path, config)
    read_files, tables = [], []
    for file in configs:
        try:
            if configs[file] != config:
                raise InputError(f"{file} must have the networks that most files have")
            rows, problems = read_file(file, lambda content: read_rows(content, layout))
        except InputError as error:
            left_out.append(str(error))
            continue
        left_out += [f"{file} {problem}" for problem in problems]
        read_files.append(file)
        tables.append(with_source(rows, [f"{file.name} row {i}" for i in range(len(rows))]))
    if not tables:
        raise InputError(f"{path} has no file that can be read: {left_out[-1]}")
    starts = np.concatenate([[0], np.cumsum([len(table) for table in tables])])

    def load(index: np.ndarray) -> Loaded:
        values = np.full((len(index), layout.num_parameters), np.nan, np.float32)
        problems: dict[int, str] = {}
        for number in np.unique(owner := np.searchsorted(starts, index, "right") - 1):
            places = np.flatnonzero(owner == number)
            wanted = index[places] - starts[number]
            try:
                values[places] = read_file(read_files[number], partial(read_params, wanted))
            except InputError as error:
                problems |= dict.fromkeys(places.tolist(), str(error))
        tensors = {
            name: values[:, part].reshape(len(index), *shape)
            for name, (part, shape) in slices.items()
        }
        loaded = load_matrix(layout, tensors)
        return Loaded(loaded.values, loaded.problems | problems)

    network = [file for file in [path / "nef.json"] if file.exists()]
    decode = read_network(network[0], layout.num_layers, left_out) if network else {}
    rows, all_files = together(tables), [*read_files, *filter(Path.is_file, network)]
    return Source(rows, layout, load, all_files, decode=decode, left_out=left_out)


def configs_of(files: Sequence[Path], left_out: list[str]) -> tuple[dict[Path, Any], Any]:
    """The networks that each file declares, and those of most files; files without are left out."""
    configs: dict[Path, Any] = {}
    for file in files:
        try:
            configs[file] = read_file(file, read_config)
        except InputError as error:
            left_out.append(str(error))
    if not configs:
        raise InputError(f"{files[0].parent} has no file that can be read: {left_out[-1]}")
    votes = Counter(json.dumps(config) for config in configs.values())
    return configs, json.loads(votes.most_common(1)[0][0])


def read_params(wanted: np.ndarray, content: h5py.File) -> np.ndarray:
    return read_values(content["params"], wanted)


def read_config(content: h5py.File) -> Any:
    entry = dataset(content, "param_config")
    if entry.shape != (1,) or entry.id.get_storage_size() > MAX_TEXT:
        raise InputError(f"must hold param_config as one string, found shape {entry.shape}")
    return json.loads(entry[0])


def columns_of(file: Path, config: Any) -> tuple[dict[str, tuple[slice, tuple[int, ...]]], Layout]:
    """Columns and shape of each tensor by its name; layers are ordered by their numbers."""
    slices, end = {}, 0
    for entry in config if isinstance(config, list) else [config]:
        match entry:
            case [str(name), [*shape]] if shape and all(
                type(size) is int and size > 0 for size in shape
            ):
                if name in slices:
                    raise InputError(
                        f"{file} must have unique names in param_config, {name!r} comes twice"
                    )
                slices[name], end = (slice(end, end + prod(shape)), tuple(shape)), end + prod(shape)
            case _:
                raise InputError(
                    f"{file} must have param_config [[name, shape], ...], found {str(entry)[:60]}"
                )
    names = sorted(slices, key=natural)
    return slices, layout_of([(name, slices[name][1]) for name in names])


def read_rows(content: h5py.File, layout: Layout) -> tuple[pa.Table, list[str]]:
    """The rows, and the problems of other data sets."""
    params, num_parameters = dataset(content, "params"), layout.num_parameters
    if params.ndim != 2 or params.dtype.kind != "f" or params.shape[1] != num_parameters:
        raise InputError(
            f"must hold params (members, {num_parameters}) of floating point numbers, found "
            f"{params.shape} of {params.dtype}"
        )
    columns, problems = {}, []
    for theirs in sorted(set(content) - {"params", "param_config"}, key=str):
        name = "label" if theirs == "labels" else as_text(theirs)
        try:
            values = dataset(content, theirs)
            if values.shape not in ((len(params),), (len(params), 1)):
                raise ValueError(f"its shape is {values.shape}, not {(len(params),)}")
            columns[name] = read_column(name, values)
        except NOT_READ as error:
            problems.append(f"has {theirs!r}, which cannot be read ({error})")
    columns = columns or {"split": pa.nulls(len(params), pa.string())}
    return pa.table(columns), problems


def as_text(name: str | bytes) -> str:
    """A name from h5py, which returns bytes if it is not UTF-8."""
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")


def read_network(file: Path, num_layers: int, left_out: list[str]) -> dict[str, Any]:
    """How to run a member, according to nef.json. Images are on a grid of (x, y) from -1 to 1.

    `omega_0` is one number, or one per sine layer.
    """
    try:
        content = read_json(file)
        params = content.get("params") if isinstance(content, dict) else None
        if not isinstance(params, dict):
            raise InputError(f"{file} must have 'params', found {str(content)[:60]}")
    except InputError as error:
        left_out.append(f"{error}: how to run the networks is not known")
        return {}
    activation = ACTIVATIONS.get(str(content.get("name")))
    try:
        omega = omega_of(params, num_layers - 1)
    except InputError as error:
        left_out.append(f"{file} {error}")
        omega = None
    return {
        "activations": (*[activation] * (num_layers - 1), "linear") if activation else None,
        "omega": omega,
        "coordinate_range": (-1.0, 1.0),
        "coordinate_order": "row-major: (x, y) for images",
    }


def omega_of(params: dict[str, Any], num_sines: int) -> float | tuple[float, ...] | None:
    """`omega_0`, one number or one per sine layer; else `first_omega_0` and `hidden_omega_0`."""
    stated = params.get("omega_0")
    if stated is None and {"first_omega_0", "hidden_omega_0"} <= set(params):
        stated = [params["first_omega_0"], *[params["hidden_omega_0"]] * (num_sines - 1)]
    if stated is None:
        return None
    values: list[Any] = stated if isinstance(stated, list) else [stated]
    if not values or not all(type(value) in (int, float) and 0 < value < 1e38 for value in values):
        raise InputError(f"must have positive numbers as omega_0, found {stated}")
    if len(values) not in (1, num_sines):
        raise InputError(
            f"must have one omega_0 or {num_sines}, one per sine layer, found {stated}"
        )
    return tuple(map(float, values)) if len(set(values)) > 1 else float(values[0])
