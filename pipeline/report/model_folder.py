"""A run's best model as a Hugging Face model folder: what the Hub shows, and dwszoo loads.

`model.safetensors` has the weights, `config.json` what rebuilds the model around them, and
`README.md` is the model card.
"""

from pathlib import Path

from dwsnet.heads import WeightsHead
from dwsnet.pretrained import CARD, CONFIG, TENSORS
from pipeline.archive.files import write_atomic, write_json
from pipeline.archive.summary import in_words, shown, summarize
from pipeline.archive.zoo import Zoo
from pipeline.config import describe
from pipeline.exchange.huggingface import card_template
from pipeline.functions import modules_named
from pipeline.report.models import model_table, models_of, read_training
from pipeline.training.checkpoint import Checkpoint, TrainedModel

PUBLISHED = ("fingerprint", "tensors", "decode")
"""Fields of the zoo's record in config.json: none names signals or files."""


def write_model_folder(run: Path, best: Checkpoint, trained: TrainedModel, zoo: Zoo, folder: Path):
    """Write the best checkpoint of a run that was scored, with its card, into a folder."""
    published = {name: fact for name, fact in best.card["zoo"].items() if name in PUBLISHED}
    write_atomic(folder / TENSORS, (best.folder / TENSORS).read_bytes())
    write_json(folder / CONFIG, best.card | {"zoo": published, "epoch": best.epoch})
    (folder / CARD).write_text(card(run, trained, zoo), encoding="utf-8")


def card(run: Path, trained: TrainedModel, zoo: Zoo) -> str:
    """The model card: YAML that the Hub reads, then text."""
    training, first = read_training(run), models_of(run)[0]
    table = model_table([first])
    parts = (("task.", training.task), ("encoder.", training.encoder))
    return card_template("pipeline.report").render(
        title=first.title,
        task=training.task.kind,
        signals=shown(zoo.record.signals.name),
        scores=dict(zip(table["columns"], table["rows"][0], strict=True)),
        zoo={key: in_words(value) for key, value in summarize(zoo).items() if value != {}},
        configuration=[row for prefix, config in parts for row in describe(config, prefix)],
        tensors={spec.name: spec.shape for spec in trained.space.tensors},
        edits=isinstance(trained.model, WeightsHead),
        width=trained.encoder.width,
        trusted=f", trusted={modules}" if (modules := sorted(modules_named(training))) else "",
    )
