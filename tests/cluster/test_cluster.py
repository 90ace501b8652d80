"""Fan-out on a real Ray cluster; a killed command leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cluster.fanout import WINDOW, run_tasks
from cluster.orphans import MARK
from cluster.processes import marked
from cluster.progress import NAMESPACE, PER_SECOND, SECONDS, ProgressReader
from cluster.session import ray_session


@pytest.fixture(scope="module")
def ray():
    with ray_session(2):
        import ray

        yield ray


def square(offset, number):
    if number == 3:
        raise ValueError("three is not liked")
    return offset + number**2


def test_results_come_with_their_items_and_an_exception_does_not_stop_the_others(ray):
    results = dict(run_tasks(square, range(6), (100,), 2))
    error = results.pop(3)
    assert isinstance(error, ValueError)
    assert "three is not liked" in str(error)
    assert results == {0: 100, 1: 101, 2: 104, 4: 116, 5: 125}


def die_once(folder, number):
    mark = folder / str(number)
    if number == 3 or not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_task_whose_worker_is_killed_is_tried_again_and_one_that_always_kills_it_is_told(
    ray, tmp_path
):
    results = dict(run_tasks(die_once, [1, 2, 3], (tmp_path,), 2))
    assert isinstance(results.pop(3), ray.exceptions.WorkerCrashedError)
    assert results == {1: 1, 2: 2}


def fail_once(folder, number):
    mark = folder / f"failed-{number}"
    if not mark.exists():
        mark.touch()
        raise OSError("the file server is away")
    return number


def test_a_task_that_raised_is_tried_again(ray, tmp_path):
    assert dict(run_tasks(fail_once, [1, 2], (tmp_path,), 2)) == {1: 1, 2: 2}


def test_no_more_than_a_window_of_tasks_is_drawn_ahead(ray):
    drawn = []

    def items():
        for number in range(20):
            drawn.append(number)
            yield number

    tasks = run_tasks(square, items(), (0,), 2)
    next(tasks)
    assert len(drawn) <= 2 * WINDOW + 1
    assert len(list(tasks)) == 19


def work_in_steps(folder, number, advance):
    """Twenty steps of a tenth of a second; the first attempt of number 1 is killed after eight."""
    mark = folder / f"began-{number}"
    tried = mark.exists()
    mark.touch()
    for step in range(20):
        time.sleep(0.1)
        advance(1)
        if number == 1 and not tried and step == 7:
            os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_tasks_tell_how_far_they_are_and_never_go_back_when_they_are_tried_again(ray, tmp_path):
    from ray.experimental.internal_kv import _internal_kv_list

    progress = {0: [], 1: []}
    results = run_tasks(
        work_in_steps,
        [0, 1],
        (tmp_path,),
        2,
        on_progress=lambda number, done: progress[number].append(done),
    )
    assert dict(results) == {0: 0, 1: 1}
    assert all(progress.values())
    for steps in progress.values():
        assert steps == sorted(set(steps))
        assert 0 < steps[-1] <= 20
    assert _internal_kv_list("", namespace=NAMESPACE) == []


def test_many_tasks_report_less_often():
    assert ProgressReader(2 * WINDOW).reporter().seconds == SECONDS
    assert ProgressReader(1000 * WINDOW).reporter().seconds == 1000 * WINDOW / PER_SECOND


def test_what_cannot_be_told_does_not_stop_the_work(ray, monkeypatch):
    def broken(*arguments, **options):
        raise ray.exceptions.RpcError("the head node is away")

    monkeypatch.setattr("ray.experimental.internal_kv._internal_kv_put", broken)
    monkeypatch.setattr("ray.experimental.internal_kv._internal_kv_get", broken)
    reader = ProgressReader(1)
    reporter = reader.reporter()
    reporter(1)
    reporter.due = 0
    reporter(1)
    assert reporter.done == 2
    assert list(reader.read([("item", reporter)])) == []


def test_nothing_outlives_a_command_that_is_killed():
    code = (
        "import os, subprocess, sys; from cluster.orphans import MARK, end_children_with_me; "
        "end_children_with_me(); sleep = [sys.executable, '-c', 'import time; time.sleep(600)']; "
        "subprocess.Popen(sleep, start_new_session=True); "
        "print(os.environ[MARK], flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    mark = process.stdout.readline().strip()
    deadline = time.monotonic() + 30
    while not marked(MARK, mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(marked(MARK, mark)) == 1
    process.kill()
    process.wait()
    while marked(MARK, mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert marked(MARK, mark) == []
