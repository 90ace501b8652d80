"""The models of a run: its own, the same with other seeds, and baselines of the same size and budget."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dwsnet.weight_space import WeightSpace
from pipeline.encoders import AnyEncoder, EncoderConfig, sized
from pipeline.functions import Own, modules_named
from pipeline.training.config import TrainingConfig
from pipeline.training.models import build_model, num_parameters_of
from pipeline.unions import model_of_kind, models_in


@dataclass(frozen=True)
class Variant:
    """One model of a run."""

    baseline: str | None = None
    """The kind of its encoder, where it is not the run's own."""
    seed: int = 0
    """Added to the run's."""

    @property
    def folder(self) -> Path:
        """In the folder of the run, which is that of its own model."""
        parts = ["baselines", self.baseline] if self.baseline else []
        return Path(*parts, *(["seeds", str(self.seed)] if self.seed else []))

    def title(self, training: TrainingConfig) -> str:
        kind = self.baseline or training.encoder.kind
        return f"{kind}, seed {training.seed + self.seed}" if self.seed else kind

    def of(
        self, training: TrainingConfig, space: WeightSpace, prepared: Mapping[str, Any]
    ) -> TrainingConfig:
        """What this variant is trained with. A baseline is as large as the model of the run."""
        changed: dict[str, Any] = {"seed": training.seed + self.seed, "baselines": (), "seeds": 1}
        if self.baseline:
            changed["start"] = None
            encoder = baseline(self.baseline, training.encoder)
            changed["encoder"] = matched(encoder, training, space, prepared)
        return training.model_copy(update=changed)


OWN = Variant()
"""The model that the run is for."""


def variants(training: TrainingConfig) -> Iterator[Variant]:
    """The run's own model, then baselines; each with all its seeds."""
    for baseline in (None, *training.baselines):
        for seed in range(training.seeds):
            yield Variant(baseline, seed)


def folders_in(run: Path) -> list[Path]:
    """Folders of the models that a run has, its own first."""
    own = [run, *sorted((run / "baselines").glob("*"))]
    seeds = [folder for one in own for folder in (one, *sorted((one / "seeds").glob("*")))]
    return [folder for folder in seeds if (folder / "config.json").is_file()]


def baseline(kind: str, encoder: EncoderConfig | Own) -> EncoderConfig:
    """The encoder of a kind that reads weights as `encoder` does: fields that both have are alike."""
    family = model_of_kind(models_in(AnyEncoder), kind)
    known = type(encoder).model_fields.keys() & family.model_fields.keys()
    alike = {name: getattr(encoder, name) for name in known - {"kind", *family.sizes}}
    return family.model_validate(alike | {"kind": kind})


def matched(
    encoder: EncoderConfig,
    training: TrainingConfig,
    space: WeightSpace,
    prepared: Mapping[str, Any],
) -> EncoderConfig:
    """The encoder at the size at which its model has about as many parameters as the one of `training`."""
    trusted = modules_named(training)

    def model(config: EncoderConfig) -> nn.Module:
        changed = training.model_copy(update={"encoder": config})
        return build_model(changed, space, prepared, trusted)[1]

    return sized(encoder, model, num_parameters_of(training, space, prepared, trusted))
