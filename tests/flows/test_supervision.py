"""The process in which a command works: however it ends, the command ends with a sentence."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import wait_for

COMMAND = """
import atexit, os, signal, sys
from flows.interruption import SIGNALS, handle_signals, leave
from flows.supervision import supervise

supervise(SIGNALS)
{work}
"""
LINES = b"""[at first, E 7 8] worker.cc:8: Objects are lost. Trying again
[at once, C 7 8] worker.cc:9: No raylet. Please look
[at once, W 7 8] worker.cc:9: The end
[at once, E 7 8] logging.cc:5: *** SIGABRT
"""
NATIVE = f"os.write(2, {LINES!r})"


def start(work: str) -> subprocess.Popen:
    code = COMMAND.format(work=work)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], text=True, **streams)


@pytest.mark.parametrize(
    ("work", "how"),
    [
        (f"{NATIVE}; os._exit(1)", "exit code 1: worker.cc:9: No raylet"),
        (f"{NATIVE}; os.abort()", "SIGABRT: worker.cc:9: No raylet"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os._exit(0)", "exit code 0"),
    ],
)
def test_a_process_that_is_ended_is_reported(work, how):
    ended = start(work)
    out, err = ended.communicate(timeout=20)
    sentence = f"dwszoo: the process of this command ended ({how}): run the same command again"
    assert (ended.returncode, out, err) == (1, "", f"{sentence} to continue\n")


@pytest.mark.parametrize(
    ("work", "code", "last"),
    [
        (f"{NATIVE}; print('said', file=sys.stderr); leave(3)", 3, "said"),
        ("atexit.register(print, 'said', file=sys.stderr)", 0, "said"),
        ("raise ValueError('said')", 1, "ValueError: said"),
    ],
)
def test_a_process_that_ends_by_itself_has_the_last_word(work, code, last):
    ended = start(work)
    _, err = ended.communicate(timeout=20)
    assert ended.returncode == code
    assert err.splitlines()[-1] == last
    assert "worker.cc" not in err


def test_the_process_ends_with_the_command():
    command = start("import time; print(os.getpid(), flush=True); time.sleep(60)")
    worker = psutil.Process(int(command.stdout.readline()))
    os.kill(command.pid, signal.SIGKILL)
    command.communicate(timeout=20)
    wait_for(lambda: not worker.is_running(), 10)
