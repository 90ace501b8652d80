"""A HOME that is missing, read-only or not a folder."""

import os
import pwd
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flows.home import CACHES, INDUCTOR, usable_home


@pytest.fixture
def environment(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in CACHES:
        os.environ.pop(name, None)
    (tmp_path / "file").touch()
    return os.environ


def inside() -> dict[str, Path]:
    return {name: Path(os.environ[name]) for name in (*CACHES, "HOME") if name in os.environ}


@pytest.mark.parametrize(
    ("home", "stays"),
    [
        ("/", False),
        ("", False),
        ("relative", False),
        ("/nowhere", False),
        ("{tmp}/file", False),
        ("/proc", True),
    ],
)
def test_a_home_that_is_none_is_replaced_and_caches_can_be_written(
    home, stays, environment, tmp_path
):
    environment["HOME"] = home.format(tmp=tmp_path)
    with usable_home():
        found = inside()
        assert (found.pop("HOME") == Path(home)) is stays  # credentials are read from there
        assert set(found) == set(CACHES)
        (folder,) = set(found.values())
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_uid == os.getuid()
        (folder / "kernel").write_bytes(b"...")
    assert not folder.exists()


def test_no_home_and_nobody_who_has_one(environment, monkeypatch):
    def no_entry(user):
        raise KeyError(f"getpwuid(): uid not found: {user}")

    del environment["HOME"]
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    with usable_home():
        assert Path.home().is_dir()
        assert Path.home().parent == Path(tempfile.gettempdir())


def test_a_home_that_is_one_stays_as_it_is(environment, tmp_path):
    (tmp_path / "home").mkdir()
    environment["HOME"] = str(tmp_path / "home")
    with usable_home():
        assert inside() == {
            "HOME": tmp_path / "home",
            INDUCTOR: tmp_path / "home" / ".cache" / "torchinductor",
        }
        assert not list((tmp_path / "home").iterdir())
    del environment[INDUCTOR]
    (tmp_path / "home" / ".cache").symlink_to("/proc")
    with usable_home():
        assert inside()["HOME"] == tmp_path / "home"
        assert inside()["XDG_CACHE_HOME"] != Path("/proc")


def test_a_home_without_room(tmp_path):
    code = (
        "import os; from flows.home import usable_home\n"
        "with usable_home(): print(os.environ['XDG_CACHE_HOME'])"
    )
    environment = {name: value for name, value in os.environ.items() if name not in CACHES}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"HOME": str(tmp_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        capture_output=True,
        text=True,
    )
    assert result.stdout.startswith(tempfile.gettempdir()), result.stderr
    assert not Path(result.stdout.strip()).exists()
