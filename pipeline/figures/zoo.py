"""The picture that shows a zoo of any kind."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.archive.zoo import Zoo
from pipeline.figures.accuracies import draw_accuracies, has_accuracies
from pipeline.figures.reconstructions import draw_reconstructions, draw_renderings, why_not_rendered
from pipeline.figures.weights import draw_weights


@dataclass(frozen=True)
class ZooPicture:
    file: str
    """File name in a report: its suffix is the kind that suits the picture."""
    text: str
    """A sentence that says what is drawn."""
    draw: Callable[[Zoo, Path], None]
    why: str | None = None
    """Why there is no better picture."""

    @property
    def reasoned(self) -> str:
        """The sentence, and why there is no better picture."""
        return f"{self.text} No renderings: {self.why}." if self.why else self.text


def picture_of(zoo: Zoo, with_originals: bool = True) -> ZooPicture:
    """The accuracies of classifiers, what INRs render, or for all other zoos the weights."""
    if has_accuracies(zoo):
        text = "How accurate the members are, and what accuracy depends on."
        return ZooPicture("accuracies.svg", text, draw_accuracies)
    if (why := why_not_rendered(zoo)) is not None:
        text = "The weights of some members, negative in blue and positive in red."
        return ZooPicture("weights.png", text, draw_weights, why)
    if with_originals:
        text = "One signal of each class, and what its INRs render from their stored weights."
        return ZooPicture("reconstructions.png", text, draw_reconstructions)
    text = "What INRs of one signal of each class render from their stored weights."
    return ZooPicture("renderings.png", text, draw_renderings)
