"""Make data/official_*.safetensors: `python official_vectors.py CHECKOUT` of the official code.

Every parameter and batch norm buffer is random (the official initialisation would leave biases at
1e-4 and statistics at 0 and 1, and hide mistakes). State dicts are stored in float32, and outputs
are computed in float64 from the same numbers. Features are stored as in dwsnet: weights
`(batch, out, in, channels)`.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file

DATA = Path(__file__).parent / "data"

SAB = {"set_layer": "sab", "num_heads": 2, "hidden_dim": 4}
CASES = {
    "max": ({"widths": (2, 5, 4, 3)}, {"reduction": "max"}),
    "mean": ({"widths": (2, 5, 4, 3)}, {"reduction": "mean"}),
    "sum": ({"widths": (2, 5, 4, 3)}, {"reduction": "sum"}),
    "one_output": ({"widths": (2, 4, 3, 1)}, {"reduction": "max", "bn": True}),
    "deep": ({"widths": (2, 4, 5, 3, 3)}, {"reduction": "mean", "bn": True, "n_hidden": 2}),
    "deep_max": ({"widths": (1, 4, 5, 3, 1)}, {"reduction": "max"}),
    "skips": (
        {"widths": (2, 5, 4, 3)},
        {"reduction": "max", "add_skip": True, "add_layer_skip": True, "bn": True},
    ),
    "no_bias": ({"widths": (2, 5, 4, 3)}, {"reduction": "sum", "bias": False}),
    "diagonal": ({"widths": (2, 4, 5, 3, 3)}, {"reduction": "max", "diagonal": True}),
    "classifier": ({"widths": (2, 5, 4, 3)}, {"reduction": "max", "bn": True, "n_classes": 5}),
    "classifier_mean": (
        {"widths": (2, 4, 5, 3, 1)},
        {"reduction": "mean", "add_skip": True, "n_classes": 5},
    ),
    "classifier_sum": (
        {"widths": (1, 4, 3, 2)},
        {"reduction": "sum", "diagonal": True, "bn": True, "n_classes": 5},
    ),
    "sab": ({"widths": (2, 5, 4, 3)}, SAB | {"reduction": "max"}),
    "sab_one_output": ({"widths": (1, 4, 5, 3, 1)}, SAB | {"reduction": "mean", "n_hidden": 2}),
    "sab_skips": (
        {"widths": (2, 5, 4, 3)},
        SAB | {"reduction": "sum", "add_skip": True, "add_layer_skip": True, "bn": True},
    ),
    "sab_no_bias": ({"widths": (2, 5, 4, 3)}, SAB | {"reduction": "max", "bias": False}),
    "sab_diagonal": ({"widths": (2, 4, 5, 3, 3)}, SAB | {"reduction": "mean", "diagonal": True}),
    # The official code makes six heads of these: as many as fit, each 6 // 4 wide.
    "sab_uneven_heads": (
        {"widths": (2, 4, 3, 2)},
        SAB | {"reduction": "max", "hidden_dim": 6, "num_heads": 4},
    ),
    "sab_no_hidden": (
        {"widths": (2, 4, 3, 2)},
        SAB | {"reduction": "max", "output_features": 4, "n_hidden": 0},
    ),
    "sab_classifier": (
        {"widths": (2, 5, 4, 1)},
        SAB | {"reduction": "max", "bn": True, "n_classes": 5, "hidden_dim": 8, "num_heads": 8},
    ),
    "fc": (
        {"widths": (2, 5, 4, 3)},
        {"reduction": "max", "n_fc_layers": 2, "add_skip": True, "add_layer_skip": True},
    ),
    "fc_no_bias": (
        {"widths": (2, 4, 5, 3, 1)},
        {"reduction": "mean", "n_fc_layers": 3, "bias": False, "bn": True},
    ),
    "fc_classifier": (
        {"widths": (2, 5, 4, 3)},
        SAB | {"reduction": "max", "n_fc_layers": 2, "n_out_fc": 3, "n_classes": 5},
    ),
    "wide": (
        {"widths": (2, 5, 4, 3)},
        {"reduction": "max", "input_features": 3, "equiv_out_features": 4, "n_classes": 5},
    ),
}


def randomize(model: torch.nn.Module):
    """Every parameter and running statistic random, of a size that keeps outputs near 1."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.normal_(std=2 / tensor.shape[1] ** 0.5 if tensor.ndim == 2 else 0.5)


def to_dwsnet(features) -> list[torch.Tensor]:
    """The official ((weights), (biases)) with (in, out) weights, as dwsnet has them."""
    return [x for w, b in zip(*features, strict=True) for x in (w.transpose(1, 2).contiguous(), b)]


def main(checkout: str):
    sys.path.insert(0, checkout)
    from nn.models import DWSModel, DWSModelForClassification

    for seed, (name, (space, options)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        shapes, widths = tuple(pairwise(space["widths"])), space["widths"][1:]
        kind = DWSModelForClassification if "n_classes" in options else DWSModel
        options = {"input_features": 2, "hidden_dim": 2, "n_hidden": 1, "set_layer": "ds"} | options
        model = kind(shapes, tuple((n,) for n in widths), **options).eval()
        randomize(model)
        state = {
            f"state.{key}": x.clone()
            for key, x in model.state_dict().items()
            if x.is_floating_point()
        }
        inputs = (
            tuple(torch.randn(2, *s, options["input_features"]) for s in shapes),
            tuple(torch.randn(2, n, options["input_features"]) for n in widths),
        )
        with torch.no_grad():
            outputs = model.double()(tuple(tuple(x.double() for x in part) for part in inputs))
        outputs = [outputs] if "n_classes" in options else to_dwsnet(outputs)
        tensors = {f"input.{i}": x for i, x in enumerate(to_dwsnet(inputs))}
        tensors |= {f"output.{i}": x.contiguous() for i, x in enumerate(outputs)}
        meta = {"widths": json.dumps(space["widths"]), "pooling": options["reduction"]}
        if options["set_layer"] == "sab":
            meta["num_heads"] = str(options["num_heads"])
        save_file(state | tensors, DATA / f"official_{name}.safetensors", metadata=meta)


if __name__ == "__main__":
    main(sys.argv[1])
