"""Pages that are made from the code while the site is built."""

from pathlib import Path

from flows.overrides import resolve_recipe
from flows.recipe_file import write_toml
from flows.recipes import RECIPES

ROOT = Path(__file__).parent.parent


def on_page_markdown(markdown: str, page, config, files) -> str:
    """The page with each comment of `PARTS` replaced by what is made in its place."""
    for comment, make in PARTS.items():
        if comment in markdown:
            markdown = markdown.replace(comment, make())
    return markdown


def recipes() -> str:
    """Each recipe, with the meaning of its fields."""
    return "\n\n".join(
        f"## {name}\n\n{recipe.__doc__.strip()}\n\n"
        f"```toml\n{write_toml(resolve_recipe(name, []), name)}\n```"
        for name, recipe in RECIPES.items()
    )


def layers() -> str:
    """The README of dwsnet."""
    return (ROOT / "dwsnet" / "README.md").read_text()


PARTS = {"<!-- recipes -->": recipes, "<!-- layers -->": layers}
