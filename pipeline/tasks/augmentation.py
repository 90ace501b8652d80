"""Random augmentation of networks in training, drawn anew for each network and epoch."""

from __future__ import annotations

from math import radians
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeFloat

from pipeline.config import ClassifierZooConfig, Config
from pipeline.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from dwsnet.weight_space import WeightSpace
    from pipeline.archive.shard import Block
    from pipeline.archive.zoo import Zoo


class Augmentation(Config):
    """No augmentation by default. The result for a member depends only on its key."""

    noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on every weight, relative to the root mean square of the
    member's tensor."""
    mask: float = Field(0.0, ge=0, lt=1)
    """Share of the weights that are set to 0."""
    signs: bool = False
    """Negate hidden units at random, with their outgoing weights: the same function for odd
    activations (sine, finer, tanh)."""
    shift: NonNegativeFloat = 0.0
    """INRs: shift the signal by up to this much along each axis, exactly; the grid runs from -1 to
    1, or over `zoo.inr.coordinate_range`."""
    rotation: float = Field(0.0, ge=0, le=180)
    """INRs of images: rotate the image about its centre by up to this many degrees, exactly."""
    zoom: float = Field(1.0, ge=1)
    """INRs: enlarge or shrink the signal by up to this factor, exactly."""

    @property
    def moves(self) -> list[str]:
        """The fields that move the signal of an INR."""
        identity = {"shift": 0, "rotation": 0, "zoom": 1}
        return [name for name, value in identity.items() if getattr(self, name) != value]

    def check(self, zoo: Zoo):
        """Raise InputError if an augmentation would not be exact for the members of this zoo."""
        if self.signs:
            require_odd_activations(zoo, "training.task.augmentation.signs")
        for name in self.moves:
            if problem := why_not_moved(zoo, name):
                raise InputError(f"training.task.augmentation.{name} needs {problem}: leave it out")

    def apply(self, space: WeightSpace | None, state: Block, keys: Tensor) -> Block:
        """The augmented networks, each by its own key; `keys` is `(batch,)` int64.

        `state` is not modified. The space may be None if there is no augmentation.
        """
        from dwsnet.augment import (
            add_noise,
            flip_signs,
            mask,
            move_picture,
            random_rotations,
            random_shifts,
            random_zooms,
        )
        from dwsnet.keyed import fold_in
        from dwsnet.state import read_state, write_state

        if self == Augmentation():
            return state
        assert space is not None
        tensors = read_state(space, state)
        if self.signs:
            tensors = flip_signs(space, tensors, fold_in(keys, 0))
        if self.moves:
            num_dims = space.tensors[0].shape[1]
            linear = random_zooms(fold_in(keys, 1), num_dims, self.zoom)
            if self.rotation:
                linear = random_rotations(fold_in(keys, 2), radians(self.rotation)) @ linear
            shift = random_shifts(fold_in(keys, 3), num_dims, self.shift)
            tensors = move_picture(space, tensors, linear, shift)
        if self.noise:
            tensors = add_noise(space, tensors, fold_in(keys, 4), self.noise)
        if self.mask:
            tensors = mask(space, tensors, fold_in(keys, 5), self.mask)
        return write_state(space, tensors)


def why_not_moved(zoo: Zoo, name: str) -> str | None:
    """What the augmentation `name` needs and the zoo does not have, since it moves signals by a
    linear map of the coordinates that the first layer takes; None if it can."""
    contract = zoo.record.decode
    num_dims = contract.num_dims(zoo.space)
    needed = "INRs of images" if name == "rotation" else "INRs"
    if contract.coordinate_range is None:
        found = "networks whose coordinates are not known"
    elif contract.frequencies:
        needed, found = "INRs that take coordinates as they are", "INRs that encode them first"
    elif name == "rotation" and num_dims != 2:
        found = f"INRs of {num_dims} coordinates"
    else:
        return None
    return f"{needed}, but zoo {zoo.folder} has {found}"


def require_odd_activations(zoo: Zoo, field: str):
    """Raise InputError if sign flips of hidden units, set by `field`, would change functions."""
    from pipeline.decode import ODD

    if not (hidden := activations_of(zoo)) <= ODD:
        raise InputError(
            f"{field} needs networks of odd activations, such as {', '.join(sorted(ODD))}, but "
            f"those of zoo {zoo.folder} are {', '.join(sorted(hidden))}: set it to false"
        )


def activations_of(zoo: Zoo) -> set[str]:
    """Activations of the members' hidden layers, also of members not fitted yet.

    'unknown' if the zoo does not say.
    """
    from pipeline.decode import CATALOG

    record = zoo.record
    hidden = set((record.decode.activations or ())[:-1]) or {"unknown"}
    if CATALOG not in hidden:
        return hidden
    if not zoo.is_sealed and isinstance(record.config, ClassifierZooConfig):
        own = set[str](record.config.hyperparameters.activation)
    else:
        names = ("activation", "status")
        rows = zip(*(zoo.catalog[name].to_pylist() for name in names), strict=True)
        own = {activation or "unknown" for activation, status in rows if status == "ok"}
    return hidden - {CATALOG} | own
