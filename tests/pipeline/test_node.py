"""Memory that processes of a node share: filled once, read-only, freed when they end."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from pipeline.training.node import SharedMemory, limit_files, memory_of_node

pytestmark = pytest.mark.fast
SIZE = 100_000
ASK = """
import sys, time
from pipeline.training.node import SharedMemory

def fill(memory):
    print("filling", flush=True)
    time.sleep(float(sys.argv[2]))
    memory[:] = 7

shared = SharedMemory(sys.argv[1], 100_000, fill)
print(int(shared.data.sum()), flush=True)
time.sleep(60)
"""


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def ask(name):
    """Starts processes that ask for the memory `name`."""
    started = []

    def start(seconds: float = 0) -> subprocess.Popen:
        command = [sys.executable, "-c", ASK, name, str(seconds)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def never(memory: np.ndarray):
    raise AssertionError("is filled already")


def test_the_first_to_ask_fills_it_and_all_others_have_the_same(ask, name):
    first = ask(0.5)
    assert first.stdout.readline() == "filling\n"
    others = [ask(), ask()]
    assert [process.stdout.readline() for process in (first, *others)] == [f"{7 * SIZE}\n"] * 3
    shared = SharedMemory(name, SIZE, never)
    shared.data[:] = 1  # in this process alone
    assert int(SharedMemory(name, SIZE, never).data.sum()) == 7 * SIZE


def test_a_process_that_is_killed_while_it_fills_leaves_that_to_the_next(ask, name):
    first = ask(60)
    assert first.stdout.readline() == "filling\n"
    second = ask()
    first.send_signal(signal.SIGKILL)
    assert second.stdout.readline() == "filling\n"
    assert second.stdout.readline() == f"{7 * SIZE}\n"


def test_what_was_filled_outlives_the_process_that_filled_it_and_is_no_file(ask, name):
    before = set(os.listdir("/dev/shm")) | set(os.listdir("/tmp"))
    first = ask()
    assert first.stdout.readline() == "filling\n"
    first.stdout.readline()
    shared = SharedMemory(name, SIZE, never)
    assert not any(name in file for file in {*os.listdir("/dev/shm"), *os.listdir("/tmp")} - before)
    first.kill()
    first.wait()
    assert int(shared.data.sum()) == 7 * SIZE
    filled = []
    SharedMemory(name, SIZE, lambda memory: filled.append(True))
    assert filled


def test_what_fails_while_it_is_filled_is_raised_and_can_be_tried_again(name):
    def fail(memory: np.ndarray):
        memory[:10] = 1
        raise OSError("cannot be read")

    with pytest.raises(OSError, match="cannot be read"):
        SharedMemory(name, SIZE, fail)
    shared = SharedMemory(name, SIZE, lambda memory: memory.fill(2))
    assert int(shared.data.sum()) == 2 * SIZE


def test_it_ends_with_the_object_that_filled_it(name):
    shared = SharedMemory(name, SIZE, lambda memory: memory.fill(2))
    del shared
    deadline = time.monotonic() + 5
    filled = []
    while not filled and time.monotonic() < deadline:
        SharedMemory(name, SIZE, lambda memory: filled.append(True))
    assert filled


def test_the_memory_of_a_node_is_at_most_the_machines_and_what_its_groups_allow():
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory_of_node() <= physical
    assert all(file.is_relative_to(Path("/sys/fs/cgroup")) for file in limit_files())
