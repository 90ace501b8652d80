"""Imports point one way, heavy packages stay where they belong, and importing does no work; lines
are short."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("dwsnet", "pipeline", "flows", "cluster")
MAY_IMPORT = {
    "dwsnet": set(),
    "cluster": set(),
    "pipeline": {"dwsnet"},
    "flows": {"dwsnet", "pipeline", "cluster"},
}
OWNERS = {
    "ray": ("cluster", "pipeline/training"),
    "deepspeed": ("pipeline/training",),
    "prefect": ("flows",),
}
FILES = sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))


@cache
def import_statements(path: Path) -> list[ast.Import | ast.ImportFrom]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    names = set()
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        else:
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    names = imported(path)
    assert names & set(OURS) <= MAY_IMPORT[package] | {package}
    for name, owners in OWNERS.items():
        if name in names:
            assert any(str(path.relative_to(ROOT)).startswith(owner) for owner in owners), (
                f"{path} imports {name}"
            )


def modules_imported(path: Path) -> set[Path]:
    """Our files and packages that a file imports, anywhere in it."""
    found = set()
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        places = (ROOT / name.replace(".", "/") for name in names)
        found |= {
            file
            for place in places
            for file in (place.with_name(f"{place.name}.py"), place / "__init__.py")
            if file.exists()
        }
    return found


def files_imported(path: Path) -> set[Path]:
    """Our files that a file imports, without the packages around them."""
    return {file for file in modules_imported(path) if file.name != "__init__.py"}


def test_no_file_imports_what_imports_it():
    graph = {path: files_imported(path) for path in FILES}
    assert sum(map(len, graph.values())) > 100
    TopologicalSorter(graph).prepare()  # raises CycleError


LAYERS = (
    *("errors", "distributions", "location", "progress", "unions", "config", "functions"),
    *("signals", "decode", "archive", "fit", "zoos", "figures", "exchange", "encoders", "tasks"),
    *("training", "report"),
)
"""Parts of `pipeline`: each imports only those before it."""


def layer(path: Path) -> str:
    return path.relative_to(ROOT / "pipeline").parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "pipeline").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_parts_of_the_pipeline_import_what_lies_before_them(path):
    if path == ROOT / "pipeline" / "__init__.py":
        return
    places = [
        LAYERS.index(layer(file))
        for file in modules_imported(path)
        if file.is_relative_to(ROOT / "pipeline")
    ]
    assert max(places, default=0) <= LAYERS.index(layer(path))


FITTING = ("pipeline.fit", "pipeline.zoos", "triton", "deepspeed", "ray", "prefect", "sklearn")


def test_a_zoo_is_opened_without_a_fitter(built_zoo):
    code = (
        "import sys; from pipeline.archive import Zoo; "
        "zoo = Zoo.open(sys.argv[1]); zoo.catalog, zoo[0], zoo.module(0), zoo.statistics; "
        f"print([name for name in sys.modules if name.startswith({FITTING})])"
    )
    command = [sys.executable, "-c", code, str(built_zoo)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_rules_see_every_package():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(OURS)
    assert "ray" in imported(ROOT / "cluster" / "fanout.py")
    assert "prefect" in imported(ROOT / "flows" / "flows.py")


LINE = 100
"""Characters of a line; in Python files ruff checks them."""


def test_lines_of_other_languages_are_as_short():
    kinds = {".cpp", ".h", ".html", ".css", ".js"}
    files = [path for package in (*OURS, "tests") for path in (ROOT / package).rglob("*.*")]
    lines = {
        f"{path}:{number}": line
        for path in files
        if path.suffix in kinds
        for number, line in enumerate(path.read_text().splitlines(), start=1)
    }
    assert len(lines) > 1500
    assert [place for place, line in lines.items() if len(line) > LINE] == []


@pytest.mark.parametrize("module", ["flows.cli", "flows.commands"])
def test_the_command_starts_without_heavy_packages(module):
    heavy = "{'ray', 'torch', 'prefect', 'deepspeed', 'pyarrow', 'sklearn', 'matplotlib'}"
    code = f"import sys, {module}; print({heavy} & set(sys.modules))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "set()"
    )


def test_recipes_load_no_torch():
    """Configurations are read and written fast; what they configure is imported where it runs."""
    code = (
        "import sys; from flows.overrides import resolve_recipe; "
        "from flows.recipe_file import write_toml; from flows.recipes import RECIPES; "
        "[write_toml(resolve_recipe(name, []), name) for name in RECIPES]; "
        "resolve_recipe('digits', ['training.task.kind=editing', 'training.encoder.kind=mlp']); "
        "print({'torch', 'ray', 'prefect', 'pyarrow', 'scipy', 'dwsnet'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_work_begins_without_what_compiles_draws_and_serves():
    """torch._dynamo takes longer to import than all that a worker needs of torch."""
    slow = "{'torch._dynamo', 'matplotlib', 'prefect', 'sklearn'}"
    code = (
        "import sys, torch, dwsnet, flows.verbs; from pipeline.training.engine import AdamW; "
        "x = torch.nn.Parameter(torch.ones(3)); optimizer = AdamW([x], lr=0.1, fused=True); "
        "x.sum().backward(); optimizer.step(); optimizer.zero_grad(); "
        f"print(x.grad, x.min().item() < 1, {slow} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    expected = "None True set()\n"
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == expected


def test_the_controller_of_workers_loads_no_torch():
    code = (
        "import sys, pipeline.training.worker, pipeline.training.lean_trainer; "
        "print({'torch', 'deepspeed', 'dwsnet'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"
