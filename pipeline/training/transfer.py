"""Transfer: what a run's encoder is good for where there are labels, few of them or all."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.training.config import FinetuneConfig, StartConfig, TrainingConfig
from pipeline.training.probe import SHARES, Reading, num_known


@dataclass(frozen=True)
class Transfer:
    """A model that learns from labels, in a folder of its own in the run's: from the run's encoder, or from scratch."""

    share: float
    """Of the train split's members, whose labels are known."""
    is_pretrained: bool

    @property
    def folder(self) -> Path:
        return Path("transfer", "finetuned" if self.is_pretrained else "scratch", self.percent)

    @property
    def percent(self) -> str:
        return f"{100 * self.share:g}-percent"

    @property
    def title(self) -> str:
        return "fine-tuned" if self.is_pretrained else "from scratch, equal steps"

    def of(
        self, run: Path, training: TrainingConfig, finetune: FinetuneConfig, num_members: int
    ) -> TrainingConfig:
        """What it is trained with; the train split has `num_members`. As many steps at every share."""
        changed: dict[str, Any] = {
            "task": finetune.task,
            "epochs": finetune.epochs,
            "learning_rate": finetune.learning_rate,
            "start": StartConfig(checkpoint=run) if self.is_pretrained else None,
            "members": num_known(num_members, self.share),
            "passes": round(1 / self.share),
            "baselines": (),
            "seeds": 1,
            "sizes": (),
        }
        return training.model_copy(update=changed)

    def reading(self, scores: Mapping[str, Any], num_members: int) -> Reading:
        """Of its metrics on the test split those that a probe has too."""
        metrics = {name: scores[name] for name in ("accuracy", "r2", "mse") if name in scores}
        known = num_known(num_members, self.share)
        return Reading(scores["task"], self.title, self.share, known, metrics)


TRANSFERS = tuple(Transfer(share, is_new) for is_new in (True, False) for share in SHARES)
