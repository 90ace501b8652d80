"""Pages that are made from the code while the site is built."""

from pathlib import Path

from flows.overrides import resolve_recipe
from flows.recipe_file import write_toml
from flows.recipes import RECIPES

ROOT = Path(__file__).parent.parent
LAYERS = "reference/layers.md"


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Fill in `<!-- recipes -->` with each recipe and the meaning of its fields, `<!-- layers -->` with dwsnet's README."""
    layers = (ROOT / "dwsnet" / "README.md").read_text()
    return markdown.replace("<!-- recipes -->", recipes()).replace("<!-- layers -->", layers)


def recipes() -> str:
    return "\n\n".join(
        f"## {name}\n\n{recipe.__doc__.strip()}\n\n```toml\n{write_toml(resolve_recipe(name, []), name)}\n```"
        for name, recipe in RECIPES.items()
    )
