"""Where compiled code is cached, and what happens if it cannot be."""

import _ctypes
import logging
import os
import pwd
import shutil
import tempfile
from pathlib import Path

import pytest

from dwsnet.compiled import COMPILERS, load_library

pytestmark = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler")


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "source").mkdir()
    file = tmp_path / "source" / "seven.cpp"
    file.write_text('extern "C" int seven() { return 7; }\n')
    return file


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    """The folder of temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def seven(source: Path) -> int | None:
    """The answer of the library, loaded as if for the first time."""
    library = load_library.__wrapped__(source, "Seven is guessed")
    if library is None:
        return None
    found = library.seven()
    _ctypes.dlclose(library._handle)
    return found


def test_a_library_is_built_once_and_kept_for_the_user_alone(source, scratch, monkeypatch):
    cache = source.parent / "deep" / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert seven(source) == 7
    (kept,) = (cache / "dwszoo").iterdir()
    assert (cache / "dwszoo").stat().st_mode & 0o777 == 0o700
    before = kept.stat().st_mtime_ns
    assert seven(source) == 7
    assert kept.stat().st_mtime_ns == before
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("cache", ["/proc", "/proc/nowhere", "/dev/null"])
def test_without_a_cache_it_is_built_for_this_process(source, scratch, monkeypatch, caplog, cache):
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert seven(source) == 7
    assert not caplog.records
    assert not list(scratch.iterdir())


def test_without_a_home_it_is_built_for_this_process(source, scratch, monkeypatch, caplog):
    def no_entry(user):
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    assert seven(source) == 7
    assert not caplog.records


def test_nothing_is_loaded_from_a_cache_that_others_can_write_to(source, scratch, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(source.parent))
    cache = source.parent / "dwszoo"
    assert seven(source) == 7
    (kept,) = cache.iterdir()
    planted = source.with_name("other.cpp")
    planted.write_text('extern "C" int seven() { return 8; }\n')
    assert seven(planted) == 8
    next(cache.glob("other-*")).replace(kept)
    assert seven(source) == 8  # the cache is believed
    cache.chmod(0o777)
    assert seven(source) == 7
    cache.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(cache, 12345, -1)
        assert seven(source) == 7


def test_a_damaged_library_is_built_again(source, scratch, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(source.parent))
    assert seven(source) == 7
    (kept,) = (source.parent / "dwszoo").iterdir()
    size = kept.stat().st_size
    kept.unlink()
    kept.write_bytes(b"\x7fELF")
    assert seven(source) == 7
    assert kept.stat().st_size == size


def test_a_missing_folder_is_not_called_a_missing_compiler(source, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with caplog.at_level(logging.WARNING):
        assert seven(source) is None
    (record,) = caplog.records
    assert record.message.startswith(
        "Seven is guessed, because the compiled kernel could not be built"
    )
    assert "Set TMPDIR or XDG_CACHE_HOME" in record.message
    assert "Install a C++ compiler" not in record.message


@pytest.mark.parametrize(
    ("complaint", "remedy"),
    [
        ("/usr/bin/ld: final link failed: No space left on device", "Set TMPDIR"),
        ("Cannot create temporary file in /tmp/: Permission denied", "Set TMPDIR"),
        ("error: unrecognized command line option '-std=c++2a'", "Install a C++ compiler"),
    ],
)
def test_what_the_compiler_lacks(source, scratch, monkeypatch, caplog, complaint, remedy):
    compiler = source.parent / "c++"
    compiler.write_text(f'#!/bin/sh\necho "{complaint}" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(source.parent), prepend=os.pathsep)
    with caplog.at_level(logging.WARNING):
        assert seven(source) is None
    assert complaint in caplog.text
    assert f"{complaint}. {remedy}" in caplog.text
