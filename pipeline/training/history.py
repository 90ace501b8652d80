"""What happened in a run so far: the metrics of each epoch, and which was the best."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.tasks import Monitor


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.jsonl."""

    epoch: int
    """Counts from 1."""
    train_loss: float
    validation: Mapping[str, float]
    """The task's metrics on the validation split."""
    learning_rate: float
    seconds: float
    models_per_second: float
    """Members trained on, over the time of the epoch without validation."""


@dataclass(frozen=True)
class History:
    """The content of training.json."""

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
        """With one more epoch."""
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
