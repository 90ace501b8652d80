"""What workers write while they train: progress, and the metrics of each epoch."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.training.history import History, Progress

STATUS_SECONDS = 1.0
"""Time between two updates of the status."""


@dataclass(frozen=True)
class Status:
    """The progress of training, for a progress bar; the content of `.progress.json`."""

    members: int
    """Members trained on since the first epoch, with repetitions."""
    epoch: int
    loss: float
    """Mean over the epoch so far."""
    models_per_second: float
    """Rate since the previous status."""
    skipped_steps: int
    """Count over the epoch so far."""


def read_status(run: Path) -> Status | None:
    """The newest status, or None if there is none yet."""
    try:
        return Status(**json.loads((run / ".progress.json").read_bytes()))
    except FileNotFoundError:
        return None


def write_status(run: Path, status: Status):
    write_whole(run / ".progress.json", json.dumps(asdict(status)))


class StatusWriter:
    """Writes the progress of training at intervals."""

    def __init__(self, run: Path, steps: int, batch_size: int):
        self.run, self.steps, self.batch_size = run, steps, batch_size
        self.mark: tuple[float, int] | None = None
        """Time of the newest status, and the members trained on by then."""

    def show(self, progress: Progress) -> Status | None:
        """Called after each step; returns the status it wrote, or None if it is too early."""
        members = ((progress.epoch - 1) * self.steps + progress.step) * self.batch_size
        now = time.monotonic()
        time_before, members_before = self.mark = self.mark or (now, members)
        seconds = now - time_before
        if seconds < STATUS_SECONDS or progress.step == progress.totals.skipped:
            return None
        loss, skipped = progress.mean(progress.totals.loss), progress.totals.skipped
        rate = (members - members_before) / seconds
        status = Status(members, progress.epoch, loss, rate, skipped)
        write_status(self.run, status)
        self.mark = now, members
        return status


def write_epochs(run: Path, history: History):
    """Write metrics.jsonl, one line per epoch in the newest checkpoint: resuming repeats none."""
    file = run / "metrics.jsonl"
    text = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in history.epochs)
    if not (file.exists() and file.read_text() == text):
        write_whole(file, text)


def write_whole(path: Path, text: str):
    """Replace a file atomically, without flushing to disk, as nothing is resumed from it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
