"""The models of a run: its own, with other seeds, on fewer members, and baselines of equal size."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

from torch import nn

from dwsnet.weight_space import WeightSpace
from pipeline.encoders import AnyEncoder, EncoderConfig
from pipeline.encoders.sizing import sized
from pipeline.functions import Own, modules_named
from pipeline.training.config import TrainingConfig
from pipeline.training.models import build_model, num_parameters_of
from pipeline.unions import model_of_kind, models_in


@dataclass(frozen=True)
class Variant:
    """One model of a run."""

    baseline: str | None = None
    """The kind of its encoder; None for the run's own encoder."""
    seed: int = 0
    """Added to the seed of the run."""
    members: int | None = None
    """Members of the train split; None for the run's own number."""

    @property
    def folder(self) -> Path:
        """Relative to the folder of the run, which is the folder of its own model."""
        parts = ["sizes", str(self.members)] if self.members else []
        parts += ["baselines", self.baseline] if self.baseline else []
        return Path(*parts, *(["seeds", str(self.seed)] if self.seed else []))

    def title(self, training: TrainingConfig) -> str:
        title = self.baseline or training.encoder.kind
        title += f", {self.members:,} members" if self.members else ""
        return title + (f", seed {training.seed + self.seed}" if self.seed else "")

    def of(
        self, training: TrainingConfig, space: WeightSpace, prepared: Mapping[str, Any]
    ) -> TrainingConfig:
        """The configuration of this variant. A baseline is as large as the model of the run."""
        changed: dict[str, Any] = {"seed": training.seed + self.seed}
        changed |= {"baselines": (), "seeds": 1, "sizes": ()}
        if self.members:
            batch_size = min(training.batch_size, self.members)
            changed |= {"members": self.members, "batch_size": batch_size}
        if self.baseline:
            changed["start"] = None
            encoder = baseline(self.baseline, training.encoder)
            changed["encoder"] = matched(encoder, training, space, prepared)
        return training.model_copy(update=changed)


OWN = Variant()
"""The run's own model."""


def variants(training: TrainingConfig) -> Iterator[Variant]:
    """The run's own model and baselines, each with all seeds; then the same on fewer members."""
    others = (kind for kind in training.baselines if kind != training.encoder.kind)
    kinds, seeds = (None, *others), range(training.seeds)
    for members, baseline, seed in product((None, *training.sizes), kinds, seeds):
        yield Variant(baseline, seed, members)


def folders_in(run: Path) -> list[Path]:
    """Folders of the models of a run, its own first, without those on fewer members."""
    kinds = [run, *sorted((run / "baselines").glob("*"))]
    return [folder for kind in kinds for folder in seeds_in(kind)]


def seeds_in(folder: Path) -> list[Path]:
    """The folder of a model and its folders with other seeds, as far as they exist."""
    folders = [folder, *sorted((folder / "seeds").glob("*"))]
    return [folder for folder in folders if (folder / "config.json").is_file()]


def sizes_in(run: Path) -> dict[int, Path]:
    """Folders laid out like the run, for smaller numbers of members, by number in order."""
    folders = {int(folder.name): folder for folder in (run / "sizes").glob("[1-9]*")}
    return dict(sorted(folders.items()))


def all_folders_in(run: Path) -> list[Path]:
    """Folders of all models of a run, including those on fewer members."""
    return [folder for one in (run, *sizes_in(run).values()) for folder in folders_in(one)]


def baseline(kind: str, encoder: EncoderConfig | Own) -> EncoderConfig:
    """An encoder of another kind that shares all fields that both have, except sizes."""
    family = cast(type[EncoderConfig], model_of_kind(models_in(AnyEncoder), kind))
    known = type(encoder).model_fields.keys() & family.model_fields.keys()
    alike = {name: getattr(encoder, name) for name in known - {"kind", *family.sizes}}
    return family.model_validate(alike | {"kind": kind})


def matched(
    encoder: EncoderConfig,
    training: TrainingConfig,
    space: WeightSpace,
    prepared: Mapping[str, Any],
) -> EncoderConfig:
    """The encoder, resized so that its model has about as many parameters as that of `training`."""
    trusted = modules_named(training)

    def model(config: EncoderConfig) -> nn.Module:
        changed = training.model_copy(update={"encoder": config})
        return build_model(changed, space, prepared, trusted)[1]

    return sized(encoder, model, num_parameters_of(training, space, prepared, trusted))
