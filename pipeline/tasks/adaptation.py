"""Domain adaptation: classifiers in, classifiers of corrupted images out (Navon et al. 2023, section 7.3)."""

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
"""What can be done to images: `pipeline.tasks.corruption`."""
AS_IT_WAS = "trivial_"
PAIRS = "", "unseen_"
"""A metric is named by the state of networks ('' where adapted), by whether their pairs of classes were learned from, and
by the score."""


class Adaptation(TaskConfig):
    kind: Literal["adaptation"] = "adaptation"
    """Networks that classify corrupted images, made of those that classify clean ones."""
    corruptions: tuple[Corruption, ...] = Field(
        ("rotation", "jitter", "blur", "flips"), min_length=1
    )
    """What images of the target domain have gone through, in order."""
    images: PositiveInt = 32
    """Train images, of its own classes, that each network's loss is taken on in a step."""
    evaluation_images: PositiveInt = 128
    """Images of a split that each of its networks is scored on, at most; as many of each class."""
    unseen_pairs: float = Field(0.1, ge=0, lt=1)
    """Share of all pairs of classes whose networks nothing is learned from; the test split scores them apart."""
    seed: int = Field(0, ge=0)
    """Decides which pairs are unseen and how each image is corrupted for each network where they are scored."""
    finetuning_steps: tuple[PositiveInt, ...] = (10, 100)
    """Steps of Adam on each network by itself, with as many images each, which the test split is compared with."""
    finetuning_rate: PositiveFloat = 3e-3
    """Their learning rate."""

    columns: ClassVar[tuple[str, ...]] = ("split", "class_0", "class_1", "activation")
    monitor: ClassVar[Monitor] = Monitor("target_accuracy")

    def check(self, zoo: Zoo) -> None:
        """A zoo of classifiers that was built here, of which it is known how they are run."""
        from pipeline.decode import Decoder

        decode = zoo.record.decode
        if decode.image is None:
            raise InputError(
                f"zoo {zoo.folder} cannot teach adaptation: its members must be classifiers of images, found "
                f"{zoo.record.architecture} networks that take none; `dwszoo zoo build` makes some, as in recipe mlps"
            )
        if (why := zoo.why_no_signals) is not None:
            raise InputError(
                f"zoo {zoo.folder} cannot teach adaptation: its images must be known, and {why}"
            )
        Decoder(decode, zoo.space, f"zoo {zoo.folder}")
        super().check(zoo)

    def prepare(self, zoo: Zoo) -> dict[str, Any]:
        """Which pairs of classes are unseen: a share of all, drawn from the seed alone.

        Raises InputError where no network of the train or the validation split is of another pair.
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
                    f"zoo {zoo.folder} must have {split} networks of pairs of classes that are not held out, found "
                    "none: lower training.task.unseen_pairs or build a larger zoo"
                )
        return {"num_classes": num_classes, "unseen_pairs": unseen}

    def build(self, encoder: Encoder, prepared: Mapping[str, Any]) -> WeightsHead:
        """Takes stacked state dicts of classifiers, returns such: v - s dv."""
        import torch

        from dwsnet.encoders import features_of
        from dwsnet.heads import WeightsHead

        model = WeightsHead(features_of(encoder))
        model.domains = None  # until they are attached
        unseen = torch.zeros(2 * (prepared["num_classes"],), dtype=torch.bool)
        for pair in prepared["unseen_pairs"]:
            unseen[tuple(pair)] = True
        model.register_buffer("unseen", unseen, persistent=False)
        return model

    def attach(self, model: WeightsHead, zoo: Zoo) -> None:
        """The images of the zoo, and how its members are run on them."""
        from pipeline.tasks.domains import Domains

        domains = Domains(zoo, self.corruptions, self.seed)
        model.domains = domains.to(next(model.parameters()).device)

    def loss(self, model: WeightsHead, batch: Batch, keys: Tensor) -> Tensor:
        """Cross-entropy of adapted networks on train images of the target domain; 0 for networks of unseen pairs."""
        import numpy as np

        adapted, seen = model(batch.state), (~is_unseen(model, batch)).nonzero()[:, 0]
        keys = keys[seen].cpu().numpy().view(np.uint64)
        state = {name: tensor[seen] for name, tensor in adapted.items()}
        if not len(seen):
            return sum(tensor.sum() for tensor in state.values())  # 0, of no networks
        losses = model.domains.training_losses(batch.take(seen), state, keys, self.images)
        return losses.sum() / len(batch)

    def sums(self, model: WeightsHead, batch: Batch) -> dict[str, Tensor]:
        """How many networks are of seen and of unseen pairs of classes, and sums of their scores."""
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
        """Means over networks, not over images: of pairs of classes that were learned from, NaN where there are none, and
        of `unseen_` ones where there are any.
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
        """`(batch,)` each: how far a network moves; where the images are known also its scores, adapted, as it was and
        fine-tuned.
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
        """`change`, the norm of dv over that of v; where the images are known the rest of `outputs` too."""
        return {name: values.cpu().numpy() for name, values in outputs.items()}

    def scores(self, table: pa.Table) -> dict[str, Any]:
        """Mean accuracies of networks that are fine-tuned one by one, of pairs that were learned from."""
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
                "Mean accuracy of networks of the test split, on test images of each domain; fine-tuned are those that "
                "were trained by themselves on train images of the target domain:",
                ("", "source", "target", "source, unseen pairs", "target, unseen pairs"),
                comparison(evaluation.table, self.finetuning_steps),
            ),
            Figure(
                "adaptation.svg",
                "Networks of the test split on corrupted test images, before and after.",
                partial(draw_networks, evaluation.table),
            ),
            Figure(
                "corrupted.png",
                f"Test images, and what one network sees of them in the target domain: {', '.join(self.corruptions)}.",
                partial(
                    draw_images, trial.source[0].movedim(1, -1), trial.target[0].movedim(1, -1)
                ),
            ),
        )

    def example(self, evaluation: Evaluation) -> Trial:
        """The first network of the test split."""
        import pyarrow.compute as pc
        import torch

        from pipeline.tasks.columns import batch_columns

        zoo = evaluation.zoo
        rows = zoo.where((pc.field("split") == "test") & (pc.field("status") == "ok"))[:1]
        columns = batch_columns(zoo.catalog.take(rows), self.columns)
        batch = Batch(zoo[rows], columns, torch.tensor(rows))
        return next(evaluation.model.domains.trials(batch, self.evaluation_images))


def is_unseen(model: WeightsHead, batch: Batch) -> Tensor:
    """`(batch,)` bool: whether the pair of classes of a network was held out; not where it knows all classes."""
    return model.unseen[batch.columns["class_0"], batch.columns["class_1"]]


def relative_change(before: Block, after: Block) -> Tensor:
    """`(batch,)` norm of what was taken away over the norm of what there was, over all tensors."""
    import torch

    moved, was = (
        torch.stack([x.flatten(1).square().sum(1) for x in tensors]).sum(0)
        for tensors in ([before[name] - after[name] for name in before], before.values())
    )
    return (moved / was).sqrt()
