"""SIGTERM, SIGHUP and Ctrl-C, sent to the command or all its processes: message and exit code."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cluster.orphans import MARK
from flows import interruption
from flows.cli import main
from tests.conftest import dwszoo, start_dwszoo, worker_of

BUILD = ["zoo", "build", "smoke", "--workers", "1", "--set", "zoo.fit.max_steps=5000", "--out"]


def started_by(worker: int) -> list[int]:
    """What the process that does the work of a command has started, except its watcher, which ends
    after it."""
    mark, found = f"{MARK}={worker}-".encode(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if any(entry.startswith(mark) for entry in file.read().split(b"\0")):
                    found.append(int(name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("signum", "to_all", "when"),
    [
        (signal.SIGTERM, False, "starting"),
        (signal.SIGHUP, True, "fitting"),
    ],
)
def test_a_signal_ends_a_build_as_ctrl_c_does(signum, to_all, when, tmp_path, monkeypatch):
    zoo, temporary = tmp_path / "zoo", tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    process = start_dwszoo(*BUILD, zoo)
    worker = worker_of(process).pid
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        parts = list(zoo.glob("catalog/[!.]*"))
        if started_by(worker) if when == "starting" else parts:
            break
        time.sleep(0.05)
    committed = {path: path.read_bytes() for path in zoo.glob("catalog/[!.]*")}
    (os.killpg if to_all else os.kill)(process.pid, signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signum, err
    assert err.endswith("dwszoo: interrupted: run the same command again to continue\n")
    assert "Traceback" not in err
    assert started_by(worker) == []
    assert list(temporary.iterdir()) == []
    assert [path.name for path in zoo.rglob(".*")] == [".lock"]
    assert {path: path.read_bytes() for path in committed} == committed


def test_a_failure_that_follows_a_signal_is_an_interruption(monkeypatch, capsys):
    assert main(["recipes", "no-such-recipe"]) == 2
    monkeypatch.setattr(interruption, "received", [signal.SIGTERM])
    capsys.readouterr()
    assert main(["recipes", "no-such-recipe"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == interruption.SENTENCE


STUCK = """
import ctypes
from flows import interruption
from flows.cli import main
interruption.SECONDS = 0.5
interruption.handle_signals()
lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
lock(mutex)
print("ready", flush=True)
lock(mutex)  # the second time in vain, whatever signals come
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_stuck_in_compiled_code_ends_in_time(signum):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    time.sleep(0.5)  # until it is stuck
    process.send_signal(signum)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (128 + signum, interruption.SENTENCE)


TAKEN = """
import os, signal
from types import SimpleNamespace
from flows import cli

def library(signum, frame):
    raise SystemError("returned a result with an exception set")

def work(options):
    signal.signal(signal.SIGTERM, library)
    os.kill(os.getpid(), signal.SIGTERM)

options = SimpleNamespace(command=work, debug=False)
cli.parser = lambda: SimpleNamespace(parse_args=lambda _: options)
cli.command()
"""


def test_a_signal_that_a_library_takes_and_turns_into_an_error_is_an_interruption():
    ended = subprocess.run([sys.executable, "-c", TAKEN], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGTERM, interruption.SENTENCE)


IGNORED = """
import signal, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from flows.interruption import exit_code, handle_signals
handle_signals()
print("ready", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    raise SystemExit(exit_code())
"""


def test_a_signal_that_nohup_ignores_stays_ignored_and_the_others_end_the_command():
    process = subprocess.Popen([sys.executable, "-c", IGNORED], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM


def test_a_command_that_another_started_ends_none_of_the_others_processes(monkeypatch):
    monkeypatch.setenv(MARK, f"{os.getpid()}-of-this-process")
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            assert dwszoo("recipes", "smoke").code == 0
            assert dwszoo("recipes", "no-such-recipe").code == 2
            assert other.poll() is None
        finally:
            other.kill()
