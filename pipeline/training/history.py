"""The history of a run: metrics of each epoch, the best one, and the position of training."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.tasks import Monitor


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.jsonl."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    """Mean over steps that were not skipped."""
    validation: Mapping[str, float]
    """The task's metrics on the validation split."""
    learning_rate: float
    seconds: float
    models_per_second: float
    """Members trained on per second of the epoch, validation excluded."""
    step_seconds: float | None = None
    """Mean time of a step."""
    data_seconds: float | None = None
    """Mean time per step that rank 0 waited for its data."""
    gradient_norm: float | None = None
    """Mean over steps that were not skipped, before clipping."""
    skipped_steps: int = 0
    """Steps whose loss or gradient was not finite; they changed nothing."""
    gpu_memory_bytes: int | None = None
    """Peak memory reserved by PyTorch on the GPU of rank 0; None on CPUs."""
    model_flops_utilization: float | None = None
    """FLOP/s of rank 0's matrix products over those of one large product on its GPU; None on
    CPUs."""

    def numbers(self) -> dict[str, float | None]:
        """Everything by name, for trackers."""
        own = asdict(self)
        scores = {f"validation/{name}": value for name, value in own.pop("validation").items()}
        return {f"epoch/{name}": value for name, value in own.items()} | scores


def are_finite(train_loss: float, validation: Mapping[str, float], monitor: Monitor) -> bool:
    """Whether training can go on; metrics other than loss and monitored one may be undefined."""
    decisive = train_loss, validation.get("loss", 0.0), validation[monitor.metric]
    return all(map(math.isfinite, decisive))


@dataclass
class Totals:
    """Sums over the steps of an epoch."""

    skipped: int = 0
    loss: float = 0.0
    gradient_norm: float = 0.0
    seconds: float = 0.0
    data_seconds: float = 0.0


@dataclass
class Progress:
    """The position of training: where it resumes after an interruption, on any number of ranks."""

    epoch: int = 1
    """The current epoch."""
    step: int = 0
    """Finished steps of the current epoch."""
    updates: int = 0
    """Updates of the weights since training began: steps that were not skipped."""
    skipped_in_a_row: int = 0
    totals: Totals = field(default_factory=Totals)
    """Sums over the current epoch."""

    def count(self, loss: float, gradient_norm: float):
        """Count one more step; it was skipped if its norm is not finite."""
        self.step += 1
        if math.isfinite(gradient_norm):
            self.updates += 1
            self.skipped_in_a_row = 0
            self.totals.loss += loss
            self.totals.gradient_norm += gradient_norm
        else:
            self.skipped_in_a_row += 1
            self.totals.skipped += 1

    def mean(self, total: float) -> float:
        """Mean over the steps that were not skipped; NaN if all were."""
        taken = self.step - self.totals.skipped
        return total / taken if taken else math.nan

    def next_epoch(self) -> "Progress":
        return Progress(self.epoch + 1, 0, self.updates, self.skipped_in_a_row)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Progress":
        return cls(**content | {"totals": Totals(**content["totals"])})


@dataclass(frozen=True)
class History:
    """The finished epochs."""

    monitor: Monitor
    epochs: tuple[EpochMetrics, ...] = ()

    def __len__(self) -> int:
        return len(self.epochs)

    @property
    def newest(self) -> EpochMetrics:
        return self.epochs[-1]

    @property
    def best(self) -> EpochMetrics:
        """The first epoch with the best value of the monitored metric on the validation split."""
        sign = 1 if self.monitor.more_is_better else -1
        return max(self.epochs, key=lambda line: (sign * self.monitored(line), -line.epoch))

    def monitored(self, epoch: EpochMetrics) -> float:
        return epoch.validation[self.monitor.metric]

    def and_then(self, epoch: EpochMetrics) -> "History":
        """The history with one more epoch."""
        return History(self.monitor, (*self.epochs, epoch))

    def as_json(self) -> dict[str, Any]:
        return {
            "monitor": asdict(self.monitor),
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "History":
        epochs = tuple(EpochMetrics(**epoch) for epoch in content["epochs"])
        history = cls(Monitor(**content["monitor"]), epochs)
        for epoch in epochs:
            history.monitored(epoch)
        return history
