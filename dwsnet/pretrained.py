"""A model in a folder: `config.json` says what it is, `model.safetensors` holds its tensors. Nothing is ever unpickled."""

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

from dwsnet.weight_space import Axis, TensorSpec, WeightSpace


def space_as_json(space: WeightSpace) -> list[dict[str, Any]]:
    return [{"name": spec.name, "axes": [[axis.name, axis.size, axis.hidden] for axis in spec.axes]} for spec in space.tensors]


def space_from_json(tensors: list[dict[str, Any]]) -> WeightSpace:
    return WeightSpace(tuple(TensorSpec(spec["name"], tuple(Axis(*axis) for axis in spec["axes"])) for spec in tensors))


Model = TypeVar("Model", bound="Pretrained")


class Pretrained(nn.Module):
    """A model that reads state dicts of `self.read.space` and is made from that space and `self.config`, JSON values all."""

    config: dict[str, Any]

    def save_pretrained(self, folder: str | Path):
        """Writes `config.json` and `model.safetensors` into `folder`, which is made where there is none."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / "model.safetensors")
        config = {"model": type(self).__name__, "arguments": self.config, "space": space_as_json(self.read.space)}
        (folder / "config.json").write_text(json.dumps(config, indent=1))

    @classmethod
    def from_pretrained(cls: type[Model], folder: str | Path) -> Model:
        """The model that `save_pretrained` wrote, on the CPU and in eval mode. Raises ValueError for another class's folder."""
        config = json.loads((Path(folder) / "config.json").read_text())
        if config["model"] != cls.__name__:
            raise ValueError(f"{folder} must hold a {cls.__name__}, found a {config['model']}")
        model = cls(space_from_json(config["space"]), **config["arguments"])
        model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return model.eval()
