"""Transfer: fine-tuning a run's encoder on labels, few or all, against training from scratch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.training.config import FinetuneConfig, StartConfig, TrainingConfig
from pipeline.training.probe import SHARES, Reading, num_known


@dataclass(frozen=True)
class Transfer:
    """A model trained on labels, from the run's encoder or from scratch, in a folder of the run."""

    share: float
    """Share of the members of the train split whose labels are used."""
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
        """Its configuration, with equal steps at every share; the train split has `num_members`."""
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
        """Its metrics on the test split that a probe also has, or else the monitored one."""
        shared = [name for name in ("accuracy", "r2", "mse") if name in scores]
        metrics = {name: scores[name] for name in shared or [scores["monitor"]]}
        known = num_known(num_members, self.share)
        return Reading(scores["task"], self.title, self.share, known, metrics)


TRANSFERS = tuple(Transfer(share, is_new) for is_new in (True, False) for share in SHARES)
