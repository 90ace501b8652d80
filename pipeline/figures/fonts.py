"""Fonts for scripts that matplotlib's own font does not cover."""

import logging
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

OWN = "DejaVu Sans"
"""Ships with matplotlib."""
logger = logging.getLogger(__name__)


def set_fonts(figure: Figure) -> bool:
    """Set the text of a figure in installed fonts that have its characters.

    A character that no font has is replaced by its code, such as \\u732b, after one warning.
    Returns whether matplotlib's own font lacked any.
    """
    own = FT2Font(font_manager.findfont(OWN))
    texts = figure.findobj(Text)
    used = set("".join(text.get_text() for text in texts)) - {"\n"}
    foreign = {character for character in used if not own.get_char_index(ord(character))}
    if not foreign:
        return False
    families, lost = installed_for(foreign)
    if lost:
        logger.warning(
            "no font on this machine has %s: install one, such as Noto, or draw an SVG, for which "
            "browsers have fonts",
            " ".join(sorted(lost)),
        )
    codes = str.maketrans({character: rf"\u{ord(character):04x}" for character in lost})
    for text in texts:
        text.set_fontfamily([OWN, *families, "sans-serif"])
        text.set_text(text.get_text().translate(codes))
    return True


def installed_for(characters: set[str]) -> tuple[list[str], set[str]]:
    """Families of installed fonts that have these characters, and the characters that none has.

    Upright regular fonts are tried first.
    """
    files = map(Path, font_manager.findSystemFonts())
    families, missing = [], set(characters)
    for file in sorted(files, key=lambda file: ("regular" not in file.stem.lower(), file.name)):
        if not missing:
            break
        try:
            font = FT2Font(str(file))
        except RuntimeError:  # not a readable font
            continue
        found = {character for character in missing if font.get_char_index(ord(character))}
        if found and font.scalable:
            font_manager.fontManager.addfont(str(file))
            families.append(font.family_name)
            missing -= found
    return families, missing
