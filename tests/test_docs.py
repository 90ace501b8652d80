"""The documentation: its links lead somewhere, its code runs, its commands and fields exist."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from flows.overrides import resolve_recipe
from flows.parser import parser
from flows.recipes import RECIPES

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "dwsnet/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in BLOCK.findall(page.read_text()) if language in languages]


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and MkDocs name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """The arguments of each `dwszoo` command in shell blocks."""
    lines = "".join(blocks(page, "sh", "bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.partition(" > ")[0], comments=True) for line in lines]
    words = [line[1:] if line and "=" in line[0] else line for line in words]  # RAY_ADDRESS=...
    return [line[1:] for line in words if line and line[0] == "dwszoo"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_links_that_lead_somewhere_and_code_that_can_be_read(page):
    for link in LINK.findall(page.read_text()):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page} links to {link}"
            assert not anchor or anchor in anchors(target), f"{page} links to {link}"
    for code in blocks(page, "python"):
        ast.parse(code)
    for code in blocks(page, "toml"):
        tomllib.loads(code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_commands_that_the_parser_takes(page):
    for arguments in commands(page):
        options = vars(parser().parse_args(arguments))
        if options.get("recipe") in RECIPES and "settings" in options:
            resolve_recipe(options["recipe"], options["settings"] or ())


def test_there_is_something_to_look_at():
    assert sum(len(commands(page)) for page in PAGES) > 30
    assert sum(len(blocks(page, "python", "toml")) for page in PAGES) > 8


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in navigation


def test_the_site_has_its_own_script_for_search_without_a_server():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    (script,) = settings["extra"]["polyfills"]
    assert "iframe-worker" in script  # the name by which the plugin `offline` knows it
    assert (ROOT / "docs" / script).is_file()
