"""What is done to networks in training, each in its own way in each epoch: `Augmentation().apply(space, state, keys)`."""

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

ODD = {"sine", "tanh"}
"""Activations with f(-z) = -f(z)."""


class Augmentation(Config):
    """As it is by default nothing is done. What a member becomes depends on its key alone."""

    noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on every weight, as a share of the root mean square of the member's tensor."""
    mask: float = Field(0.0, ge=0, lt=1)
    """Share of the weights that become 0."""
    signs: bool = False
    """Negate hidden units at random, with what they go to: the same function where activations are odd (sine, tanh)."""
    shift: NonNegativeFloat = 0.0
    """INRs: the signal moves by up to so much along each axis, exactly; the grid is from -1 to 1, or
    as `zoo.inr.coordinate_range` says."""
    rotation: float = Field(0.0, ge=0, le=180)
    """INRs of images: the image turns about its centre by up to so many degrees, exactly."""
    zoom: float = Field(1.0, ge=1)
    """INRs: the signal grows or shrinks by a factor of up to so much, exactly."""

    @property
    def moves(self) -> list[str]:
        """The fields that move the signal of an INR."""
        identity = {"shift": 0, "rotation": 0, "zoom": 1}
        return [name for name, value in identity.items() if getattr(self, name) != value]

    def check(self, zoo: Zoo):
        """Raises InputError where what is meant to leave the members' functions as they are, or to move them, would not."""
        contract = zoo.record.decode
        if self.signs:
            require_odd_activations(zoo, "training.task.augmentation.signs")
        num_dims = zoo.space.tensors[0].shape[1]
        for name in self.moves:
            if contract.coordinate_range is None or (name == "rotation" and num_dims != 2):
                needed = "INRs of images" if name == "rotation" else "INRs"
                found = (
                    "networks of no known coordinates"
                    if contract.coordinate_range is None
                    else f"INRs of {num_dims} coordinates"
                )
                raise InputError(
                    f"training.task.augmentation.{name} needs {needed}, but zoo {zoo.folder} holds {found}: leave it out"
                )

    def apply(self, space: WeightSpace | None, state: Block, keys: Tensor) -> Block:
        """The networks augmented, each by its own key: `keys` are `(batch,)` int64, the state is left as it is.

        The space may be None where nothing is done.
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


def require_odd_activations(zoo: Zoo, field: str):
    """Raises InputError where signs of hidden units, which a field of the configuration changes, are no matter of choice."""
    if not (hidden := activations_of(zoo)) <= ODD:
        raise InputError(
            f"{field} needs networks of odd activations, sine or tanh, but those of zoo "
            f"{zoo.folder} are {', '.join(sorted(hidden))}: set it to false"
        )


def activations_of(zoo: Zoo) -> set[str]:
    """Activations of hidden layers that members of a zoo have, or will have once they are fitted; 'unknown' where the zoo
    does not say.
    """
    from pipeline.decode import CATALOG

    record = zoo.record
    hidden = set((record.decode.activations or ())[:-1]) or {"unknown"}
    if CATALOG not in hidden:
        return hidden
    if not zoo.is_sealed and isinstance(record.config, ClassifierZooConfig):
        own = record.config.hyperparameters.activation
    else:
        names = ("activation", "status")
        rows = zip(*(zoo.catalog[name].to_pylist() for name in names), strict=True)
        own = {activation or "unknown" for activation, status in rows if status == "ok"}
    return hidden - {CATALOG} | set(own)
