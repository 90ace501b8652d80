"""Domain adaptation: from classifiers of clean images to classifiers of corrupted ones.

The experiment of Navon et al. (2023), section 7.3.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from pipeline.errors import InputError
from pipeline.tasks.task import Batch, Figure, Monitor, Table, TaskConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa
    from torch import Tensor

    from dwsnet.encoders import Encoder
    from dwsnet.heads import WeightsHead
    from pipeline.archive.shard import Block
    from pipeline.archive.zoo import Zoo
    from pipeline.tasks.domains import Trial
    from pipeline.tasks.task import Evaluation

Corruption = Literal["rotation", "inversion", "noise", "blur", "jitter", "flips"]
"""Corruptions of images: `pipeline.tasks.corruption`."""
AS_IT_WAS = "trivial_"
PAIRS = "", "unseen_"
"""Metrics are named by the state of the networks ('' if adapted), by whether their pairs of classes
were trained on, and by the score."""


class Adaptation(TaskConfig):
    kind: Literal["adaptation"] = "adaptation"
    """Turn networks that classify clean images into networks that classify corrupted ones."""
    corruptions: tuple[Corruption, ...] = Field(
        ("rotation", "jitter", "blur", "flips"), min_length=1
    )
    """Corruptions of the target domain, applied in this order."""
    images: PositiveInt = 32
    """Train images per network and step that the loss is computed on, from the network's own
    classes."""
    evaluation_images: PositiveInt = 128
    """Largest number of images that each network of a split is scored on, the same number per
    class."""
    unseen_pairs: float = Field(0.1, ge=0, lt=1)
    """Share of all pairs of classes whose networks are left out of the loss; the test split scores
    them separately."""
    seed: int = Field(0, ge=0)
    """Seed of the unseen pairs, and of how each image is corrupted for each network in scoring."""
    finetuning_steps: tuple[PositiveInt, ...] = (10, 100)
    """The test split is compared with each network fine-tuned alone, for these numbers of Adam
    steps with as many images each."""
    finetuning_rate: PositiveFloat = 3e-3
    """Learning rate of the fine-tuning."""

    columns: ClassVar[tuple[str, ...]] = ("split", "class_0", "class_1", "activation")
    monitor: ClassVar[Monitor] = Monitor("target_accuracy")

    def check(self, zoo: Zoo) -> None:
        """Require classifiers that were built here and that it is known how to run."""
        from pipeline.decode import Decoder

        decode = zoo.record.decode
        if decode.image is None:
            raise InputError(
                f"zoo {zoo.folder} cannot teach adaptation: its members must be classifiers of "
                "images, found "
                f"{zoo.record.architecture} networks that take none; build some, for example by "
                "recipe mlps"
            )
        if (why := zoo.why_no_signals) is not None:
            raise InputError(
                f"zoo {zoo.folder} cannot teach adaptation: its images must be known, and {why}"
            )
        Decoder(decode, zoo.space, f"zoo {zoo.folder}")
        super().check(zoo)

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        """The unseen pairs of classes: a share of all, drawn from the seed alone.

        Raises InputError if the train or the validation split has no network of another pair.
        """
        import numpy as np

        num_classes = len(zoo.record.signals.class_names)
        pairs = np.array(list(combinations(range(num_classes), 2)))
        order = np.random.default_rng([self.seed, num_classes]).permutation(pairs)
        unseen = sorted(order[: round(self.unseen_pairs * len(pairs))].tolist())
        for split in ("train", "validation"):
            members = zoo.members(split)
            found = zip(
                *(members[name].to_pylist() for name in ("class_0", "class_1")), strict=True
            )
            if all(list(pair) in unseen for pair in found):
                raise InputError(
                    f"zoo {zoo.folder} must have {split} networks of pairs of classes that are not "
                    "held out, found "
                    "none: lower training.task.unseen_pairs or build a larger zoo"
                )
        return {"num_classes": num_classes, "unseen_pairs": unseen}

    def build(self, encoder: Encoder, prepared: Mapping[str, Any]) -> WeightsHead:
        """A model that maps stacked state dicts of classifiers to adapted ones: v - s dv."""
        import torch

        from dwsnet.encoders import features_of
        from dwsnet.heads import WeightsHead

        model: Any = WeightsHead(features_of(encoder))
        model.domains = None  # until they are attached
        unseen = torch.zeros(2 * (prepared["num_classes"],), dtype=torch.bool)
        for pair in prepared["unseen_pairs"]:
            unseen[tuple(pair)] = True
        model.register_buffer("unseen", unseen, persistent=False)
        return model

    def attach(self, model: WeightsHead, zoo: Zoo) -> None:
        """Attach the images of the zoo, and the decoder that runs its members on them."""
        from pipeline.tasks.domains import Domains

        domains = Domains(zoo, self.corruptions, self.seed)
        model.domains = domains.to(next(model.parameters()).device)

    def loss(self, model: WeightsHead, batch: Batch, keys: Tensor) -> Tensor:
        """Cross-entropy of adapted networks on train images of the target domain.

        Networks of unseen pairs count as 0.
        """
        import numpy as np

        adapted, seen = model(batch.state), (~is_unseen(model, batch)).nonzero()[:, 0]
        seen_keys = keys[seen].cpu().numpy().view(np.uint64)
        state = {name: tensor[seen] for name, tensor in adapted.items()}
        if not len(seen):
            return sum(tensor.sum() for tensor in state.values())  # 0, of no networks
        losses = model.domains.training_losses(batch.take(seen), state, seen_keys, self.images)
        return losses.sum() / len(batch)

    def sums(self, model: WeightsHead, batch: Batch) -> dict[str, Tensor]:
        """Numbers of networks of seen and of unseen pairs of classes, and sums of their scores."""
        import torch

        totals: dict[str, Tensor] = {}
        for trial in model.domains.trials(batch, self.evaluation_images):
            unseen = is_unseen(model, trial.batch)
            states = {AS_IT_WAS: trial.batch.state, "": model(trial.batch.state)}
            scores = model.domains.scores(trial, states)
            scores["networks"] = torch.ones_like(scores["loss"])
            for pairs, mask in zip(PAIRS, (~unseen, unseen), strict=True):
                for name, values in scores.items():
                    totals[f"{pairs}{name}"] = totals.get(f"{pairs}{name}", 0) + values[mask].sum()
        return totals

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Means over networks, not over images.

        They are of pairs of classes that were trained on, NaN if there are none, and of `unseen_`
        pairs if there are any.
        """
        import torch

        from pipeline.tasks.domains import SCORES

        return {
            f"{state}{pairs}{score}": float(sums[f"{pairs}{state}{score}"] / networks)
            for pairs in PAIRS
            if (networks := torch.as_tensor(sums[f"{pairs}networks"])) or not pairs
            for state in ("", AS_IT_WAS)
            for score in SCORES
        }

    def outputs(self, model: WeightsHead, batch: Batch) -> dict[str, Tensor]:
        """`(batch,)` each: how far a network moves and, if the images are known, its scores.

        Scores are of the network adapted, unadapted and fine-tuned.
        """
        import torch

        columns = {"change": relative_change(batch.state, model(batch.state))}
        if model.domains is None:
            return columns
        parts = []
        for trial in model.domains.trials(batch, self.evaluation_images):
            states = {AS_IT_WAS: trial.batch.state, "": model(trial.batch.state)}
            for steps, state in model.domains.finetuned(
                trial.batch, self.finetuning_steps, self.finetuning_rate, self.images
            ):
                states[f"finetuned_{steps}_"] = state
            unseen = {"is_unseen": is_unseen(model, trial.batch)}
            parts.append(unseen | model.domains.scores(trial, states))
        return columns | {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def predictions(self, outputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """`change`, the norm of dv over that of v; scores if the images are known."""
        return {name: values.cpu().numpy() for name, values in outputs.items()}

    def scores(self, table: pa.Table) -> dict[str, Any]:
        """Mean accuracies of networks fine-tuned one by one, over pairs that were trained on."""
        import pyarrow.compute as pc

        names = [f"finetuned_{steps}_target_accuracy" for steps in self.finetuning_steps]
        if not set(names) <= set(table.column_names):
            return {}
        seen = table.filter(pc.invert(table["is_unseen"]))
        return {name: pc.mean(seen[name]).as_py() for name in names if len(seen)}

    def figures(
        self, metrics: Mapping[str, Any], evaluation: Evaluation
    ) -> Sequence[Figure | Table]:
        from pipeline.figures.adaptation import comparison, draw_images, draw_networks

        trial = self.example(evaluation)
        return (
            Table(
                "Mean accuracy of the networks of the test split, on test images of each domain. "
                "Fine-tuned networks were trained one by one, on train images of the target "
                "domain:",
                ("", "source", "target", "source, unseen pairs", "target, unseen pairs"),
                comparison(evaluation.table, self.finetuning_steps),
            ),
            Figure(
                "adaptation.svg",
                "Networks of the test split on corrupted test images, before and after adaptation.",
                partial(draw_networks, evaluation.table),
            ),
            Figure(
                "corrupted.png",
                "Test images, and the same images as one network gets them in the target domain: "
                f"{', '.join(self.corruptions)}.",
                partial(
                    draw_images, trial.source[0].movedim(1, -1), trial.target[0].movedim(1, -1)
                ),
            ),
        )

    def example(self, evaluation: Evaluation) -> Trial:
        """The first network of the test split, with its images."""
        import pyarrow.compute as pc
        import torch

        from pipeline.tasks.columns import batch_columns

        zoo = evaluation.zoo
        rows = zoo.where((pc.field("split") == "test") & (pc.field("status") == "ok"))[:1]
        columns = batch_columns(zoo.catalog.take(rows), self.columns)
        batch = Batch(zoo[rows], columns, torch.tensor(rows))
        return next(evaluation.model.domains.trials(batch, self.evaluation_images))


def is_unseen(model: WeightsHead, batch: Batch) -> Tensor:
    """`(batch,)` bool: whether its pair of classes was held out; False if it has all classes."""
    return model.unseen[batch.columns["class_0"], batch.columns["class_1"]]


def relative_change(before: Block, after: Block) -> Tensor:
    """`(batch,)` norm of the change over the norm before, both over all tensors."""
    import torch

    moved, was = (
        torch.stack([x.flatten(1).square().sum(1) for x in tensors]).sum(0)
        for tensors in ([before[name] - after[name] for name in before], before.values())
    )
    return (moved / was).sqrt()
