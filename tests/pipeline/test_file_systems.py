"""File systems without locks, and folder names that the locale or UTF-8 cannot encode."""

import errno
import fcntl
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.scratch import scratch_folder
from flows.recipes import smoke
from flows.stages.learn import claim
from pipeline.archive.files import exclusive, list_files, write_atomic
from pipeline.archive.verify import verify_zoo
from pipeline.archive.zoo import Zoo
from pipeline.errors import InputError

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NAMES = [os.fsdecode(name) for name in ("Größe".encode(), "Größe".encode("latin-1"))]


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_locks_is_used_with_a_warning(number, tmp_path, monkeypatch, caplog):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".another.tmp").touch()
    with caplog.at_level(logging.WARNING), exclusive(tmp_path):
        write_atomic(tmp_path / "zoo.json", b"{}")
    (record,) = caplog.records
    assert record.message == (
        f"{tmp_path} cannot be locked ({os.strerror(number)}): start no other command that writes "
        "there"
    )
    assert (tmp_path / ".another.tmp").exists()  # of a command that may be running
    with scratch_folder() as one, scratch_folder() as other:
        assert one.is_dir()
        assert other.is_dir()
    assert not one.exists()


def test_a_file_system_with_locks_has_no_warning(tmp_path, caplog):
    with (
        exclusive(tmp_path),
        pytest.raises(InputError, match="in use by another"),
        exclusive(tmp_path),
    ):
        pass
    assert not caplog.records


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_zoo_lies_in_a_folder_of_any_name(built_zoo, tmp_path, name):
    zoo = Zoo.open(shutil.copytree(built_zoo, tmp_path / name))
    assert verify_zoo(zoo) == []
    assert len(zoo[0]) == 6
    stray = zoo.folder / "shards" / name
    stray.write_bytes(b"...")
    assert list_files(stray.parent)[stray] == 3
    assert len(verify_zoo(zoo)) == 1


EXPORTED = """
import sys
from flows.cli import main
from flows.streams import prepare_streams

prepare_streams()
for folder in sys.argv[1:]:
    main(["zoo", "export", folder, "--format", "unterthiner", "--out", f"{folder} exported"])
    assert main(["zoo", "verify", folder]) == 0
"""


def test_a_locale_does_not_damage_a_zoo(built_zoo, tmp_path):
    folders = [Path(shutil.copytree(built_zoo, tmp_path / name)) for name in NAMES]
    result = subprocess.run(
        [sys.executable, "-c", EXPORTED, *folders], env=os.environ | ASCII, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    for folder in folders:
        assert result.stdout.count(os.fsencode(folder)) == 2
        assert (tmp_path / f"{folder.name} exported" / "layout.csv").is_file()


def test_a_run_that_ray_cannot_be_told_of_is_refused(zoo, tmp_path):
    run = tmp_path / NAMES[1]
    run.mkdir()
    with pytest.raises(InputError, match=r"set LC_ALL=C\.UTF-8 or choose another --out"):
        claim(run, zoo.record, smoke().training)
    assert not list(run.iterdir())


def test_a_folder_in_which_nothing_was_written_goes_again_and_one_that_was_there_stays(tmp_path):
    (tmp_path / "old").mkdir()
    for folder in (tmp_path / "new" / "deep", tmp_path / "old"):
        with pytest.raises(InputError, match="refused"), exclusive(folder):
            raise InputError("refused")
    with exclusive(tmp_path / "used"):
        write_atomic(tmp_path / "used" / "zoo.json", b"{}")
    assert {path.name for path in tmp_path.iterdir()} == {"old", "used"}
    assert (tmp_path / "used" / "zoo.json").is_file()


def test_a_folder_that_goes_while_another_process_takes_it_is_made_again(tmp_path, monkeypatch):
    folder, flock = tmp_path / "new", fcntl.flock

    def late(descriptor, operation):
        monkeypatch.undo()
        (folder / ".lock").unlink()
        folder.rmdir()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with exclusive(folder):
        write_atomic(folder / "zoo.json", b"{}")
        with pytest.raises(InputError, match="in use by another"), exclusive(folder):
            pass
