"""A model in a folder as on the Hugging Face Hub: `config.json`, `model.safetensors` and a card.

Nothing is ever unpickled.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dwsnet.state import load_tensors
from dwsnet.weight_space import Axis, TensorSpec, WeightSpace

CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
TEMPLATE = """\
---
library_name: dwsnet
license: unknown  # of the model; choose before you publish it
tags:
- weight-space-learning
---

# {name}

A `{name}` of the Python package dwsnet. It reads the weights of networks with these tensors, as
stacked state dicts:

| tensor | shape |
| -- | -- |
{shapes}

```python
from {module} import {name}

model = {name}.from_pretrained("FOLDER")  # this folder
```
"""
"""Of the card, as the Hub reads it."""
Model = TypeVar("Model", bound="Pretrained")
Built = TypeVar("Built")


def space_as_json(space: WeightSpace) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "axes": [[axis.name, int(axis.size), axis.hidden] for axis in spec.axes],
            "roles": spec.roles,
            "flat_from": spec.flat_from,
        }
        for spec in space.tensors
    ]


def space_from_json(tensors: list[dict[str, Any]]) -> WeightSpace:
    """The space; folders older than roles have none, which means (out, in, ...)."""
    specs = []
    for spec in tensors:
        axes = tuple(Axis(*axis) for axis in spec["axes"])
        roles = spec.get("roles", ["out", *["in"] * (len(axes) - 1)][: len(axes)])
        roles = None if roles is None else tuple(roles)
        specs.append(TensorSpec(spec["name"], axes, roles, spec.get("flat_from")))
    return WeightSpace(tuple(specs))


def write_folder(
    folder: str | Path,
    kind: type,
    space: WeightSpace,
    arguments: dict[str, Any],
    tensors: Mapping[str, Tensor],
):
    """Write a model of class `kind`, made from `space` and JSON `arguments`, with its tensors.

    A card that is already there is kept.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / TENSORS, {"format": "pt"})
    config = {"model": kind.__name__, "arguments": arguments, "space": space_as_json(space)}
    (folder / CONFIG).write_text(json.dumps(config, indent=1))
    if not (folder / CARD).exists():
        shapes = "\n".join(
            f"| `{spec.name}` | {' x '.join(map(str, spec.shape))} |" for spec in space.tensors
        )
        text = TEMPLATE.format(name=kind.__name__, module=kind.__module__, shapes=shapes)
        (folder / CARD).write_text(text, encoding="utf-8")


def read_folder(
    folder: str | Path, kind: type
) -> tuple[WeightSpace, dict[str, Any], dict[str, Tensor]]:
    """The space, arguments and tensors of a model of class `kind`.

    Raises FileNotFoundError if there is none, ValueError for another class's folder and damaged
    files.
    """
    config, tensors = Path(folder) / CONFIG, Path(folder) / TENSORS
    if missing := [path.name for path in (config, tensors) if not path.is_file()]:
        raise FileNotFoundError(
            f"{folder} must hold {CONFIG} and {TENSORS} as save_pretrained writes them, missing "
            f"{missing}"
        )
    try:
        found = json.loads(config.read_text())
        name, arguments, space = found["model"], found["arguments"], space_from_json(found["space"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{config} must be a configuration as save_pretrained writes it: {error!r}"
        ) from error
    if name != kind.__name__:
        raise ValueError(f"{folder} must hold a {kind.__name__}, found a {name}")
    try:
        # Copies: tensors in the file are not aligned, which makes products slower and round
        # differently.
        return space, arguments, {name: x.clone() for name, x in load_file(tensors).items()}
    except SafetensorError as error:
        raise ValueError(
            f"{tensors} must be a safetensors file, found a damaged one: {error}"
        ) from error


def build(
    kind: type[Built], folder: str | Path, space: WeightSpace, arguments: dict[str, Any]
) -> Built:
    """`kind(space, **arguments)`. Raises ValueError that names the file for wrong arguments."""
    make: Callable[..., Built] = kind
    try:
        return make(space, **arguments)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{Path(folder) / CONFIG} must have arguments of {kind.__name__}: {error}"
        ) from error


class Pretrained(nn.Module):
    """A model that reads state dicts of `space` and is made from that space and JSON `config`."""

    space: WeightSpace
    config: dict[str, Any]
    earlier: ClassVar[dict[str, Any]] = {}
    """Values of arguments that folders older than them do not have."""

    @classmethod
    def renamed(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a folder, maybe an older one, by their current names."""
        return state

    def save_pretrained(self, folder: str | Path):
        """Write `config.json`, `model.safetensors` and `README.md`, the card, into `folder`.

        The folder is created if needed, and a card that is already there is kept.
        """
        write_folder(folder, type(self), self.space, self.config, self.state_dict())

    @classmethod
    def from_pretrained(cls: type[Model], folder: str | Path) -> Model:
        """Load what `save_pretrained` wrote, on the CPU, in its saved dtype and in eval mode.

        Raises FileNotFoundError if there is none, ValueError for another class's folder and for
        damaged files.
        """
        space, arguments, state = read_folder(folder, cls)
        model = build(cls, folder, space, cls.earlier | arguments)
        load_tensors(model, cls.renamed(state), str(Path(folder) / TENSORS), assign=True)
        return model.eval()
