"""HDF5 files of fit-a-nef and the Neural Field Arena: `nefs_{start}-{end}.hdf5`, a range of members each.

`params` `(members, parameters)` float32; `param_config`, JSON `[[name, shape], ...]` in the order of the columns, bias
before kernel, kernels as in Flax `(in, out)`; `labels` `(members,)`; `nef.json` with the kind of network and its
`omega_0`. Other data sets with a value a member are columns of the catalog. Splits are ranges of members there, so train,
validation and test come in this order.

What a file says is checked here, but its structure is read by the HDF5 library, which a crafted file can make hang: import
HDF5 files of people you trust.
"""

import json
import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError
from pipeline.exchange.layers import Layout, layout_for, layout_of, natural
from pipeline.exchange.outgoing import exported_blocks, exported_rows, num_exported
from pipeline.exchange.rows import KNOWN_TYPES, with_source
from pipeline.exchange.source import MAX_TEXT, Loaded, Source, load_matrix, read_json
from pipeline.progress import Advance

FILE = re.compile(r"nefs_(\d+)-(\d+)\.hdf5")
MEMBERS = 5000
"""Members in a file."""
MAX_RATIO = 1032
"""No data set of deflate is larger than so many times what is stored of it."""


def write(zoo: Zoo, out: Path, advance: Advance):
    layout = layout_for(zoo.space, flax_name(len(zoo.space.tensors) // 2 - 1), ".kernel", ".bias")
    columns = bias_first(layout)
    config = [[name, list(shape)] for name, shape in columns.items()]
    total, start, waiting = num_exported(zoo), 0, []
    for _, block, table in exported_blocks(zoo):
        tensors = layout.theirs(block)
        waiting.append(
            (
                np.concatenate([tensors[name].reshape(len(table), -1) for name in columns], 1),
                exported_rows(table),
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


def flax_name(last: int):
    return lambda i, _: "output_linear" if i == last else f"kernel_net_{i}.linear"


def bias_first(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Their names and shapes in their order."""
    ordered = sorted(
        layout.tensors,
        key=lambda tensor: (natural(tensor.name.rsplit(".", 1)[0]), tensor.outputs_last),
    )
    return {tensor.theirs: tensor.their_shape for tensor in ordered}


def network_of(zoo: Zoo, columns: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """`nef.json`: what their loader builds a network from."""
    widths = [shape[0] for name, shape in columns.items() if name.endswith(".bias")]
    params = {"output_dim": widths[-1], "hidden_dim": widths[0], "num_layers": len(widths)}
    return {"name": "SIREN", "params": params | {"omega_0": zoo.record.decode.omega}}


def write_file(file: Path, values: np.ndarray, rows: pa.Table, config: list):
    text = h5py.string_dtype()
    with h5py.File(file, "w") as content:
        content.create_dataset("params", data=values)
        content.create_dataset("param_config", (1,), dtype=text)[0] = json.dumps(config)
        for name in rows.column_names:
            column = rows[name]
            if pa.types.is_string(column.type):
                content.create_dataset(
                    name, data=[value or "" for value in column.to_pylist()], dtype=text
                )
            elif column.null_count == 0 or pa.types.is_floating(column.type):
                theirs = "labels" if name == "label" else name
                content.create_dataset(theirs, data=column.to_numpy())


def read(path: Path) -> Source:
    """`path`: the folder of the files."""
    files = (
        {file: FILE.fullmatch(file.name) for file in path.glob("*.hdf5")} if path.is_dir() else {}
    )
    ordered = sorted(
        (file for file, match in files.items() if match), key=lambda file: int(files[file][1])
    )
    if not ordered:
        raise InputError(
            f"{path} must have files nefs_START-END.hdf5, found {sorted(file.name for file in files)[:3]}"
        )
    config = read_file(ordered[0], read_config)
    slices, layout = columns_of(ordered[0], config)
    tables, sizes = [], []
    for file in ordered:
        if read_file(file, read_config) != config:
            raise InputError(
                f"{file} must have the param_config of {ordered[0].name}: the networks of one zoo are of one architecture"
            )
        rows = read_file(file, lambda content: read_rows(content, layout.num_parameters))
        sizes.append(len(rows))
        tables.append(with_source(rows, [f"{file.name} row {i}" for i in range(len(rows))]))
    starts = np.concatenate([[0], np.cumsum(sizes)])

    def load(index: np.ndarray) -> Loaded:
        values = np.empty((len(index), layout.num_parameters), np.float32)
        for number in np.unique(owner := np.searchsorted(starts, index, "right") - 1):
            places = np.flatnonzero(owner == number)
            wanted = index[places] - starts[number]
            values[places] = read_file(
                ordered[number],
                lambda content, wanted=wanted: read_values(content["params"], wanted),
            )
        return load_matrix(
            layout,
            {
                name: values[:, part].reshape(len(index), *shape)
                for name, (part, shape) in slices.items()
            },
        )

    network = path / "nef.json"
    return Source(
        pa.concat_tables(tables, promote_options="default"),
        layout,
        load,
        [*ordered, *([network] if network.is_file() else [])],
        decode=read_network(network, len(layout.tensors) // 2) if network.is_file() else {},
    )


def read_file(file: Path, act):
    """`act` on the opened file. Raises InputError where it is no HDF5 file or not one of these."""
    try:
        with h5py.File(file, "r") as content:
            return act(content)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{file} {error}") from error
        raise InputError(
            f"{file} must be an HDF5 file with params and param_config ({error})"
        ) from error


def dataset(content: h5py.File, name: str) -> h5py.Dataset:
    """Raises InputError where it is missing, lies in another file, or claims more than it stores."""
    found = (
        content.get(name) if isinstance(content.get(name, getlink=True), h5py.HardLink) else None
    )
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise InputError(
            f"must hold {name!r} as a data set of its own, found {sorted(content)[:8]}"
        )
    claimed, stored = prod(found.shape or ()) * found.dtype.itemsize, found.id.get_storage_size()
    if claimed > stored * (MAX_RATIO if found.chunks else 1):
        raise InputError(
            f"claims {claimed:,} bytes of {name!r} and stores {stored:,}: it is cut short or not what it says"
        )
    return found


def read_config(content: h5py.File) -> Any:
    entry = dataset(content, "param_config")
    if entry.shape != (1,) or entry.id.get_storage_size() > MAX_TEXT:
        raise InputError(f"must hold param_config as one text, found shape {entry.shape}")
    return json.loads(entry[0])


def columns_of(file: Path, config: Any) -> tuple[dict[str, tuple[slice, tuple[int, ...]]], Layout]:
    """Columns and shape of each tensor by its name; layers are counted by their numbers."""
    slices, end = {}, 0
    for entry in config if isinstance(config, list) else [config]:
        match entry:
            case [str(name), [*shape]] if shape and all(
                type(size) is int and size > 0 for size in shape
            ):
                slices[name], end = (slice(end, end + prod(shape)), tuple(shape)), end + prod(shape)
            case _:
                raise InputError(
                    f"{file} must have param_config [[name, shape], ...], found {str(entry)[:60]}"
                )
    names = sorted(slices, key=natural)
    return slices, layout_of([(name, slices[name][1]) for name in names])


def read_rows(content: h5py.File, num_parameters: int) -> pa.Table:
    params = dataset(content, "params")
    if params.ndim != 2 or params.dtype.kind != "f" or params.shape[1] != num_parameters:
        raise InputError(
            f"must hold params (members, {num_parameters}) of floating point numbers, found {params.shape} of {params.dtype}"
        )
    columns = {}
    for theirs in sorted(set(content) - {"params", "param_config"}):
        values, name = dataset(content, theirs), "label" if theirs == "labels" else theirs
        if values.shape == (len(params),):
            columns[name] = typed(name, values)
    return pa.table(columns) if columns else pa.table({"split": pa.nulls(len(params), pa.string())})


def typed(name: str, values: h5py.Dataset) -> pa.Array:
    """A column: empty texts and NaN stand for null."""
    text = h5py.check_string_dtype(values.dtype) is not None
    entries: Sequence = [value or None for value in values.asstr()[:]] if text else values[:]
    array = pa.array(entries, pa.string()) if text else pa.array(entries, from_pandas=True)
    return array.cast(KNOWN_TYPES[name]) if name in KNOWN_TYPES else array


def read_values(params: h5py.Dataset, wanted: np.ndarray) -> np.ndarray:
    """These rows. HDF5 wants them in order, each once."""
    rows, inverse = np.unique(wanted, return_inverse=True)
    if rows[-1] - rows[0] + 1 == len(rows):
        return params[rows[0] : rows[-1] + 1][inverse]
    return params[rows][inverse]


def read_network(file: Path, num_layers: int) -> dict[str, Any]:
    """What nef.json states about how to run a member: their images are on a grid of (x, y) from -1 to 1."""
    content = read_json(file)
    params = content.get("params") if isinstance(content, dict) else None
    omega = params.get("omega_0") if isinstance(params, dict) else None
    activation = (
        {"SIREN": "sine", "MLP": "relu"}.get(content.get("name"))
        if isinstance(content, dict)
        else None
    )
    return {
        "activations": (*[activation] * (num_layers - 1), "linear") if activation else None,
        "omega": float(omega) if isinstance(omega, int | float) else None,
        "coordinate_range": (-1.0, 1.0),
        "coordinate_order": "row-major: (x, y) for images",
    }
