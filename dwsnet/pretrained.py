"""A model in a folder: `config.json` says what it is, `model.safetensors` holds its tensors. Nothing is ever unpickled."""

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dwsnet.state import load_tensors
from dwsnet.weight_space import Axis, TensorSpec, WeightSpace

CONFIG, TENSORS = "config.json", "model.safetensors"
Model = TypeVar("Model", bound="Pretrained")


def space_as_json(space: WeightSpace) -> list[dict[str, Any]]:
    return [
        {"name": spec.name, "axes": [[axis.name, int(axis.size), axis.hidden] for axis in spec.axes]} for spec in space.tensors
    ]


def space_from_json(tensors: list[dict[str, Any]]) -> WeightSpace:
    return WeightSpace(tuple(TensorSpec(spec["name"], tuple(Axis(*axis) for axis in spec["axes"])) for spec in tensors))


class Pretrained(nn.Module):
    """A model that reads state dicts of `self.read.space` and is made from that space and `self.config`, JSON values all."""

    config: dict[str, Any]

    def save_pretrained(self, folder: str | Path):
        """Writes `config.json` and `model.safetensors` into `folder`, which is made where there is none."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / TENSORS)
        config = {"model": type(self).__name__, "arguments": self.config, "space": space_as_json(self.read.space)}
        (folder / CONFIG).write_text(json.dumps(config, indent=1))

    @classmethod
    def from_pretrained(cls: type[Model], folder: str | Path) -> Model:
        """The model that `save_pretrained` wrote, on the CPU, in the dtype it was saved in and in eval mode.

        Raises FileNotFoundError where there is none, ValueError for another class's folder and for files that were changed.
        """
        folder = Path(folder)
        if missing := [name for name in (CONFIG, TENSORS) if not (folder / name).is_file()]:
            raise FileNotFoundError(
                f"{folder} must hold {CONFIG} and {TENSORS} as save_pretrained writes them, missing {missing}"
            )
        model = cls._from_config(folder / CONFIG)
        try:
            state = load_file(folder / TENSORS)
        except SafetensorError as error:
            raise ValueError(f"{folder / TENSORS} must be a safetensors file, found a damaged one: {error}") from error
        load_tensors(model, state, str(folder / TENSORS), assign=True)
        return model.eval()

    @classmethod
    def _from_config(cls: type[Model], path: Path) -> Model:
        try:
            config = json.loads(path.read_text())
            name, arguments, space = config["model"], config["arguments"], space_from_json(config["space"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} must be a configuration as save_pretrained writes it: {error!r}") from error
        if name != cls.__name__:
            raise ValueError(f"{path.parent} must hold a {cls.__name__}, found a {name}")
        try:
            return cls(space, **arguments)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} must have arguments of {name}: {error}") from error
