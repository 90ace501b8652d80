"""The findings of `dwszoo doctor`."""

import pytest
from packaging.requirements import Requirement

from flows import doctor
from flows.doctor import Finding, examine, findings, kernel, packages, require, room
from pipeline.errors import InputError

pytestmark = pytest.mark.fast


def test_what_is_installed_here_is_what_the_package_asks_for():
    assert packages().startswith("dwszoo 0.1.0, Python 3.1")


@pytest.mark.parametrize(
    ("line", "found"),
    [("numpy<1", "numpy must be <1, found "), ("gone-package>=2", "must be >=2, found none")],
)
def test_a_package_of_another_version_and_one_that_is_missing(line, found):
    require(Requirement("numpy"))
    with pytest.raises(InputError, match=found) as caught:
        require(Requirement(line))
    assert str(caught.value).endswith(f"pip install '{line}'")


def test_without_a_compiler_the_kernel_s_warning_is_what_is_said(monkeypatch, tmp_path, capfd):
    from pipeline.fit.kernel import load_kernel

    load_kernel.__wrapped__.__globals__["load_library"].cache_clear()
    load_kernel.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        found = examine("kernel", kernel)
    finally:
        load_kernel.__wrapped__.__globals__["load_library"].cache_clear()
        load_kernel.cache_clear()
    assert not found.is_well
    assert "none of c++, g++, clang++ is on the PATH. Install a C++ compiler" in found.text
    assert capfd.readouterr().err == ""


def test_a_folder_for_runs(tmp_path):
    assert room(tmp_path).startswith(f"{tmp_path} can be written, ")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"No such file or directory.*make it, or name another"):
        room(tmp_path / "gone")


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_nodes(tmp_path, monkeypatch):
    looked = []
    for check in ("packages", "kernel", "gpu", "prefect"):
        monkeypatch.setattr(doctor, check, lambda: "fine")
    monkeypatch.setattr(doctor, "cluster", lambda folder: looked.append(folder) or [])
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    for folder, seen in ((tmp_path, tmp_path), (tmp_path / "gone", None)):
        found = list(findings(folder))
        assert [finding.is_well for finding in found] == [True] * 4 + [seen is not None]
        assert looked.pop() == seen


@pytest.mark.parametrize("is_well", [True, False])
def test_the_exit_code_says_whether_all_is_well(command, monkeypatch, is_well):
    found = [Finding("gpu", True, "none"), Finding("ray", is_well, "what to do")]
    monkeypatch.setattr(doctor, "findings", lambda folder: found)
    result = command("doctor")
    assert result.code == (0 if is_well else 1)
    state = "ok     " if is_well else "PROBLEM"
    assert result.out == f"gpu        ok      none\nray        {state} what to do\n"
