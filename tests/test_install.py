"""The distributions as users install them: files, requirements, and whose modules are imported."""

import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import version

import pytest

from tests.conftest import Installed
from tests.wheels import ROOT, TRAP

PROJECTS = [
    tomllib.loads((ROOT / place / "pyproject.toml").read_text())["project"]
    for place in ("", "dwsnet")
]


def contents(installed: Installed, name: str) -> tuple[set[str], Message]:
    """The files of a wheel, and its metadata."""
    (wheel,) = installed.wheels.glob(f"{name}-*.whl")
    with zipfile.ZipFile(wheel) as file:
        (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        return set(file.namelist()), Parser().parsestr(file.read(metadata).decode())


def run(installed: Installed, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """The installed command, in the folder of traps."""
    return subprocess.run(
        [installed.command, *arguments],
        cwd=installed.work,
        env=environment or None,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.fast
def test_both_distributions_are_of_one_version_and_want_the_same():
    whole, layers = PROJECTS
    assert set(layers["dependencies"]) < set(whole["dependencies"])
    for name in ("version", "requires-python", "license", "authors"):
        assert whole[name] == layers[name]
    assert (ROOT / "LICENSE").read_bytes() == (ROOT / "dwsnet" / "LICENSE").read_bytes()
    assert f"\n## [{whole['version']}] - " in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {whole['version']}\n" in (ROOT / "CITATION.cff").read_text()
    ruff = version("ruff")
    assert f"rev: v{ruff}  # " in (ROOT / ".pre-commit-config.yaml").read_text()


def test_a_wheel_has_all_that_is_read_at_run_time(installed):
    files, metadata = contents(installed, "dwszoo")
    kinds = (".py", ".cpp", ".h", ".html", ".md", ".typed", ".yaml", ".sbatch", ".lock")
    sources = {
        str(file.relative_to(ROOT))
        for package in ("cluster", "dwsnet", "flows", "pipeline")
        for file in (ROOT / package).rglob("*")
        if file.suffix in kinds and file.name != "README.md" and "build" not in file.parts
    }
    assert sources <= files
    assert {name.split("/")[0] for name in files - sources} <= {
        "cluster",  # its Dockerfile
        "dwszoo.py",
        f"dwszoo-{metadata['Version']}.dist-info",
    }
    assert metadata["License-Expression"] == "MIT"
    assert {"s3", "trackers", "docs"} <= set(metadata.get_all("Provides-Extra"))


def test_the_layers_alone_ask_for_four_packages(installed):
    files, metadata = contents(installed, "dwsnet")
    asked = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    names = {line.partition("<")[0].partition(">")[0] for line in asked}
    assert names == {"torch", "numpy", "jaxtyping", "safetensors"}
    others = {f.split("/")[0] for f in files} - {"dwsnet"}
    assert others == {f"dwsnet-{metadata['Version']}.dist-info"}
    assert {"dwsnet/kernel.cpp", "dwsnet/py.typed", "dwsnet/encoders/flat.py"} <= files


def test_the_layers_run_without_what_they_do_not_ask_for(installed, tmp_path):
    (wheel,) = installed.wheels.glob("dwsnet-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import runpy, sys; sys.path.insert(0, sys.argv[1]); import dwsnet; "
        "runpy.run_path(sys.argv[2])['main'](1); "
        "others = {'scipy', 'sklearn', 'pydantic', 'pyarrow', 'ray'}; "
        "print(dwsnet.__file__, others & {*sys.modules})"
    )
    example = ROOT / "examples" / "layer_in_a_model.py"
    command = [sys.executable, "-I", "-c", code, str(tmp_path), str(example)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == f"{tmp_path / 'dwsnet' / '__init__.py'} set()\n"


def test_versions_are_told_without_importing_anything(installed):
    told = run(installed, "--version")
    names = ("torch", "ray", "deepspeed", "prefect")
    assert told.returncode == 0, told.stderr
    expected = [f"dwszoo {PROJECTS[0]['version']}", f"Python {sys.version.split()[0]}"]
    assert told.stdout.splitlines() == expected + [f"{name} {version(name)}" for name in names]


def test_a_wheel_runs_nobody_elses_benchmarks(installed):
    for arguments in (["bench"], ["bench", "fit"]):
        refused = run(installed, *arguments)
        assert refused.returncode == 2
        assert refused.stderr.startswith("dwszoo: benchmarks need the source")
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["cluster", "dwsnet", "flows", "pipeline"])
def test_one_sentence_says_what_shadows_a_package(installed, tmp_path, name):
    trap = tmp_path / f"{name}.py"
    trap.write_text(TRAP)
    told = run(installed, "recipes", PYTHONPATH=str(tmp_path))
    assert told.returncode == 1
    assert told.stderr.startswith(f"dwszoo: the package {name} must be the one in ")
    assert f"finds {trap} first" in told.stderr
    assert told.stderr.count("\n") == 1


def test_a_run_of_the_wheel_among_files_of_any_name(smoke_run, installed):
    assert smoke_run.result.code == 0
    assert "Traceback" not in smoke_run.result.err
    assert not list(installed.work.rglob("*.pyc")), "a file of the working directory was imported"
