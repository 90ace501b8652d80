"""Training many classifiers at once, each with its own hyperparameters, images, order and epochs.

Runs of similar numbers of steps are stacked; a run that is done or has diverged leaves the stack.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.fit.dataset import ImageDataset, epoch_order, order_keys, steps_per_epoch
from pipeline.fit.optimizers import OPTIMIZERS, segments, sorted_for_segments, update
from pipeline.fit.runs import DROPOUT, Runs, initial_rows
from pipeline.fit.seeds import bits, derive
from pipeline.fit.stack import Stack, cross_entropy
from pipeline.progress import Advance, no_progress

STACK_FLOATS = {"cpu": 1_600_000, "cuda": 1_000_000_000}
"""Size of the largest activations of a step: more spill from CPU caches, fewer leave a GPU idle."""
MAX_STACK = {"cpu": 64, "cuda": 4096}
"""Maximum number of runs in a stack."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Checkpoints:
    """Results of training, one row per checkpoint, ordered by run, then by epoch."""

    rows: Tensor
    """`(checkpoints, parameters)` float32, on the CPU."""
    steps: np.ndarray
    """Optimizer steps so far; for a diverged run, until that was detected."""
    scores: dict[str, np.ndarray]
    """`train_loss`, `train_accuracy`, ...: float64, of the weights as stored, without dropout; NaN
    if there are none."""
    ok: np.ndarray
    """Whether weights and losses are finite."""


def train_runs(
    stack: Stack,
    dataset: ImageDataset,
    runs: Runs,
    epochs: Sequence[Sequence[int]],
    batch_size: int,
    device: str = "cpu",
    advance: Advance = no_progress,
) -> Checkpoints:
    """Train each run to the last of its `epochs`, with a checkpoint after each of them.

    A checkpoint depends on its run alone, except that the last bits of sums depend on the stack.
    """
    total = sum(map(len, epochs))
    out = Checkpoints(
        torch.zeros(total, stack.space.num_parameters),
        np.zeros(total, np.int64),
        {
            f"{split}_{score}": np.full(total, np.nan)
            for split in SPLITS
            for score in ("loss", "accuracy")
        },
        np.zeros(total, bool),
    )
    for training in stacks(stack, dataset, runs, epochs, batch_size, device):
        training.run(out, advance)
    return out


def stacks(
    stack: Stack,
    dataset: ImageDataset,
    runs: Runs,
    epochs: Sequence[Sequence[int]],
    batch_size: int,
    device: str,
) -> Iterator["StackTraining"]:
    """Stacks of runs with similar numbers of steps, as large as suits the device."""
    places = np.split(
        np.arange(sum(map(len, epochs))), np.cumsum([len(part) for part in epochs])[:-1]
    )
    images = dataset.images.to(device)
    pools = dataset.pools("train", runs)
    per_epoch = np.array([steps_per_epoch(len(pool), batch_size) for pool in pools])
    by_length = np.argsort(per_epoch * np.array([part[-1] for part in epochs]), kind="stable")
    size = max(
        1,
        min(
            STACK_FLOATS[device] // (batch_size * stack.floats_per_image(images)), MAX_STACK[device]
        ),
    )
    for start in range(0, len(by_length), size):
        chosen = by_length[start : start + size]
        names = ([runs[name][i] for i in chosen] for name in ("optimizer", "activation"))
        chosen = chosen[sorted_for_segments(*names).numpy()]
        due = [
            dict(zip(per_epoch[i] * np.array(epochs[i]), places[i], strict=True)) for i in chosen
        ]
        own = {name: column[chosen] for name, column in runs.items()}
        yield StackTraining(
            stack,
            dataset,
            images,
            own,
            [pools[i] for i in chosen],
            per_epoch[chosen],
            due,
            batch_size,
        )


class StackTraining:
    """One stack of runs, from its initial weights to its last checkpoint."""

    def __init__(
        self,
        stack: Stack,
        dataset: ImageDataset,
        images: Tensor,
        runs: Runs,
        pools: list[np.ndarray],
        per_epoch: np.ndarray,
        due: list[dict[int, int]],
        batch_size: int,
    ):
        """`due` maps steps to positions of checkpoints in the result, for each run."""
        self.stack, self.images, self.batch_size = stack, images, batch_size
        self.pools, self.due = (np.fromiter(parts, object, len(parts)) for parts in (pools, due))
        self.runs, self.per_epoch, self.keys = (
            runs,
            per_epoch,
            np.array(order_keys(runs), np.uint64),
        )
        self.labels = torch.from_numpy(dataset.labels).to(images.device)
        self.outputs = dataset.outputs(runs).to(images.device)
        self.scored = {
            split: np.fromiter(dataset.scored(split, runs), object, len(pools)) for split in SPLITS
        }
        self.rows = initial_rows(stack.space, runs).to(images.device)
        self.moments = torch.zeros(2, *self.rows.shape, device=images.device)
        self.orders = torch.zeros(
            len(pools), int(per_epoch.max()) * batch_size, dtype=torch.int64, device=images.device
        )
        self._settle()

    def _settle(self):
        """Update what depends on which runs are in the stack."""

        def column(name: str) -> Tensor:
            return torch.tensor(
                self.runs[name], dtype=torch.float32, device=self.rows.device
            ).unsqueeze(1)

        self.rate, self.decay = column("learning_rate"), column("weight_decay")
        self.optimizers = segments(self.runs["optimizer"].tolist())
        self.activations = segments(self.runs["activation"].tolist())

    def run(self, out: Checkpoints, advance: Advance):
        """Train and write the checkpoints to `out`; `advance` counts them."""
        step = 0
        while len(self.rows):
            if due := [i for i, places in enumerate(self.due) if step in places]:
                self.keep(np.array(due), step, out)
                advance(len(due))
            if len(self.rows):
                self.start_epochs(step)
                self.take_step(step)
            step += 1

    def keep(self, index: np.ndarray, step: int, out: Checkpoints):
        """Score and store checkpoints of the runs at `index`; remove finished and diverged runs."""
        places = np.array([self.due[i][step] for i in index])
        rows = self.rows[index].cpu()
        ok = rows.isfinite().all(1).numpy()
        for split in SPLITS:
            loss, accuracy = self.score(index, split)
            out.scores[f"{split}_loss"][places], out.scores[f"{split}_accuracy"][places] = (
                loss,
                accuracy,
            )
            ok &= np.isfinite(loss)
        out.rows[places], out.ok[places] = rows, ok
        for i in index:
            out.steps[[place for due, place in self.due[i].items() if due >= step]] = step
        leaving = [
            i for i, fine in zip(index, ok, strict=True) if not fine or step == max(self.due[i])
        ]
        if leaving:
            self.go_on_with(np.setdiff1d(np.arange(len(self.rows)), leaving))

    def go_on_with(self, index: np.ndarray):
        """Remove all other runs."""
        self.runs = {name: column[index] for name, column in self.runs.items()}
        for name in ("pools", "due", "per_epoch", "keys", "outputs", "rows", "orders"):
            setattr(self, name, getattr(self, name)[index])
        self.scored = {split: images[index] for split, images in self.scored.items()}
        self.moments = self.moments[:, index]
        self._settle()

    def start_epochs(self, step: int):
        """Shuffle the images of the runs that start an epoch."""
        for i in np.flatnonzero(step % self.per_epoch == 0):
            order = epoch_order(
                self.pools[i], int(self.keys[i]), step // int(self.per_epoch[i]), self.batch_size
            )
            self.orders[i, : len(order)] = torch.from_numpy(order)

    def take_step(self, step: int):
        """One optimizer step of every run."""
        place = torch.from_numpy(step % self.per_epoch * self.batch_size).to(self.rows.device)
        index = self.orders.gather(
            1, place.unsqueeze(1) + torch.arange(self.batch_size, device=self.rows.device)
        )
        targets = self.outputs.gather(1, self.labels[index])
        inputs = self.stack.inputs(self.images, index)
        gradient = self.stack.gradients(
            self.rows, inputs, targets, self.activations, self.masks(step)
        )
        m, v = self.moments
        for part, name in self.optimizers:
            of_part = (
                tensor[part] for tensor in (self.rows, gradient, m, v, self.rate, self.decay)
            )
            update(OPTIMIZERS[name], step + 1, *of_part)

    def masks(self, step: int) -> list[Tensor] | None:
        """Scaled dropout masks of each hidden layer, which depend on a run's key and the step."""
        dropping = np.flatnonzero(self.runs["dropout"] > 0)
        if not len(dropping):
            return None
        units, share = self.stack.num_units, self.runs["dropout"][dropping, None]
        keys = derive(derive(self.runs["seed"][dropping], DROPOUT), step)
        kept = bits(keys, self.batch_size * sum(units)) >= np.round(share * 2**16)
        masks = torch.ones(len(self.rows), self.batch_size, sum(units))
        masks[dropping] = torch.from_numpy(kept * (1 / (1 - share)).astype(np.float32)).view(
            -1, self.batch_size, sum(units)
        )
        return list(masks.to(self.rows.device).split(units, 2))

    def score(self, index: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
        """`(runs,)` mean cross-entropy and accuracy of the runs at `index` on a split."""
        pools, device = self.scored[split][index], self.rows.device
        sizes = torch.tensor([len(pool) for pool in pools], device=device)
        padded = torch.zeros(len(pools), int(sizes.max()), dtype=torch.int64)
        for row, pool in zip(padded, pools, strict=True):
            row[: len(pool)] = torch.from_numpy(pool)
        activations = segments(self.runs["activation"][index].tolist())
        rows, outputs = self.rows[index], self.outputs[index]
        loss, correct = torch.zeros(2, len(pools), dtype=torch.float64, device=device)
        for start in range(0, padded.shape[1], self.batch_size):
            images = padded[:, start : start + self.batch_size].to(device)
            there = start + torch.arange(images.shape[1], device=device) < sizes.unsqueeze(1)
            targets = outputs.gather(1, self.labels[images])
            logits = self.stack.logits(rows, self.stack.inputs(self.images, images), activations)
            loss += torch.where(there, cross_entropy(logits, targets), 0).sum(1)
            correct += ((logits.argmax(-1) == targets) & there).sum(1)
        return (loss / sizes).cpu().numpy(), (correct / sizes).cpu().numpy()
