"""Members of a zoo on a GPU, in float64: decoded and augmented as on the CPU."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dwsnet import WeightSpace
from dwsnet.keyed import fold_in
from pipeline.decode import CATALOG, DecodeContract, Decoder, ImageContract
from pipeline.tasks.augmentation import Augmentation
from tests.gpu.row import GPU, Row, bounded

MEMBERS = 6
SIREN, CNN = WeightSpace.mlp((2, 7, 5, 3)), WeightSpace.cnn(2, (6, 5), 3, 4)
INR_CONTRACT = DecodeContract(
    activations=("sine", "sine", "linear"),
    omega=30.0,
    output_offset=0.5,
    coordinate_range=(-1.0, 1.0),
    coordinate_order="(y, x)",
    value_range=(0.0, 1.0),
)
CNN_CONTRACT = DecodeContract(
    activations=(CATALOG, CATALOG, "linear"),
    omega=1.0,
    output_offset=None,
    coordinate_range=None,
    coordinate_order=None,
    value_range=(0.0, 1.0),
    image=ImageContract(grey=False, mean=(0.4, 0.1), std=(0.3, 0.7), stride=2),
)
ACTIVATIONS = ("relu", "sine", "gelu", "relu", "tanh", "sigmoid")
AUGMENTATIONS = {
    "signs": Augmentation(signs=True),
    "moves": Augmentation(shift=0.2, rotation=20, zoom=1.2),
    "noise and mask": Augmentation(noise=0.1, mask=0.2),
}


def drawn(space: WeightSpace) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        spec.name: torch.randn(MEMBERS, *spec.shape, dtype=torch.float64, generator=generator) / 3
        for spec in space.tensors
    }


def on_gpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(GPU) for name, tensor in state.items()}


def decoding() -> Iterator[Row]:
    """INRs at points, and classifiers of mixed activations on images."""
    for name, space, contract, shape, activations in (
        ("INRs", SIREN, INR_CONTRACT, (11, 2), None),
        ("classifiers", CNN, CNN_CONTRACT, (9, 2, 6, 9), ACTIVATIONS),
    ):
        decode, state = Decoder(contract, space, "this check"), drawn(space)
        inputs = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        there = decode(on_gpu(state), inputs.to(GPU), activations).cpu()
        error = (decode(state, inputs, activations) - there).abs().max().item()
        yield bounded(f"decoding {name}: CPU against GPU", error, 1e-9)


def augmentation() -> Iterator[Row]:
    """Augmentation depends on a member's key, not on the device."""
    keys, state = fold_in(torch.arange(MEMBERS), 0), drawn(SIREN)
    for name, augmentation in AUGMENTATIONS.items():
        here = augmentation.apply(SIREN, state, keys)
        there = augmentation.apply(SIREN, on_gpu(state), keys.to(GPU))
        error = max((here[name] - there[name].cpu()).abs().max().item() for name in here)
        changed = any(bool((here[name] != state[name]).any()) for name in here)
        yield bounded(f"augmentation, {name}: CPU against GPU", error if changed else 1.0, 1e-9)
