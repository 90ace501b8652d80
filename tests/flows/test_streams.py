"""The command's output if it is read in part, not read at all, or not encodable in the locale."""

import os
import subprocess
import sys

import pytest

from flows.cli import complain
from tests.conftest import start_dwszoo

COMMAND = [sys.executable, "-m", "flows.cli"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["recipes"],
        ["bench"],
        ["zoo", "info", "{zoo}"],
    ],
    ids=" ".join,
)
def test_a_reader_that_has_enough_ends_the_command_without_a_word(arguments, built_zoo):
    process = start_dwszoo(*(part.format(zoo=built_zoo) for part in arguments))
    process.stdout.close()
    assert process.wait(timeout=60) == 141  # as `cat` in `cat FILE | head -1`
    assert process.stderr.read() == ""


def test_help_and_mistakes_do_not_mind_that_nobody_reads():
    for arguments, code in ((["--help"], 0), (["recipes", "digit"], 2)):
        process = start_dwszoo(*arguments)
        process.stdout.close()
        assert process.wait(timeout=60) == code
    for streams in (">&-", "2>&-", ">&- 2>&-", "2>/dev/full"):
        command = f'exec "$@" {streams}'
        asked = ["sh", "-c", command, "sh", *COMMAND, "recipes", "digit"]
        assert subprocess.run(asked, capture_output=True).returncode == 2, streams


def test_a_full_disk_behind_the_output_is_a_sentence():
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*COMMAND, "recipes"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert result.returncode == 1
    assert result.stderr.startswith("dwszoo: the disk is full")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, {}])
def test_every_name_of_a_file_can_be_written(locale, tmp_path):
    """Also in an ASCII locale, and for a name that is not valid in any encoding."""
    code = (
        "import sys; from flows.streams import prepare_streams; prepare_streams(); "
        "print(sys.argv[1])"
    )
    for name in ("Größe".encode(), "Größe".encode("latin-1")):
        result = subprocess.run(
            [sys.executable, "-c", code, name],
            capture_output=True,
            env=os.environ | {"PYTHONUTF8": "0"} | locale,
        )
        assert (result.stdout, result.stderr) == (name + b"\n", b"")
    result = subprocess.run(
        [sys.executable, "-c", code.replace("sys.argv[1]", "'Gr\\u00f6\\u00dfe'")],
        capture_output=True,
        env=os.environ | {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    )
    assert (result.stdout, result.stderr) == (b"Gr\\xf6\\xdfe\n", b"")


def test_errors_have_no_colours(capsys):
    """Colours, which Ray writes into the names of its tasks."""
    assert complain("\x1b[36mray::fit_shard()\x1b[39m died", 1) == 1
    assert capsys.readouterr().err == "dwszoo: ray::fit_shard() died\n"
