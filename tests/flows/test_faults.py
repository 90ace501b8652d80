"""Faults while a zoo is built, with real processes, do not change the files of the zoo."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from cluster.session import ray_session
from flows.overrides import resolve_recipe
from flows.recipes import smoke
from flows.stages.build import archive, fit_zoo
from pipeline.archive import catalog, files
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import pending_shards
from pipeline.archive.zoo import Zoo
from pipeline.zoos.build import ShardSummary, fit_shard, plan_zoo
from tests.conftest import contents, start_dwszoo, worker_of
from tests.pipeline.worlds import without_ray

BUILD = ["zoo", "build", "smoke", "--workers", "1", "--out"]


@pytest.fixture(scope="module")
def ray():
    with ray_session(2):
        yield


def kill_this_process(*ignored):
    os.kill(os.getpid(), signal.SIGKILL)


def fit_or_die(config, folder, signals, shard, marks, advance):
    """Fit a shard; the first attempt of each of three shards is killed."""
    mark = marks / shard.name
    if not mark.exists():
        mark.touch()
        match shard.name:
            case "train-000000":  # in the middle of the fit
                advance = kill_this_process
            case "train-000001":  # with the shard under its temporary name
                files.os.replace = kill_this_process
            case "train-000002":  # with the shard in place and not committed
                catalog.write_part = kill_this_process
    return fit_shard(config, folder, signals, shard, advance=advance)


def test_workers_that_are_killed_on_the_way_leave_no_trace(ray, built_zoo, tmp_path):
    from cluster.fanout import run_tasks

    zoo, marks = tmp_path / "zoo", tmp_path / "marks"
    marks.mkdir()
    plan = plan_zoo(smoke().zoo, zoo)
    seen = set()
    shared = (plan.record.config, zoo, plan.signals)
    for _, result in run_tasks(
        fit_or_die, plan.shards, shared, 2, on_progress=lambda *told: None, marks=marks
    ):
        assert isinstance(result, ShardSummary)
        seen |= set(zoo.glob("shards/.*.tmp"))
    assert seen, "one was killed while it wrote"
    assert pending_shards(zoo) == {}
    archive(zoo, fitted=True)
    assert contents(zoo) == contents(built_zoo)


def test_fits_that_blow_up_are_failed_members_of_a_sound_zoo(ray, command, tmp_path):
    recipe = resolve_recipe(
        "smoke", settings := ["zoo.fit.learning_rate=1e30", "zoo.signals.limit=100"]
    )
    summary = fit_zoo(plan_zoo(recipe.zoo, tmp_path), tmp_path, recipe.resources)
    assert (summary.num_members, summary.num_failed) == (200, 200)
    zoo = archive(tmp_path, fitted=True)
    assert verify_zoo(zoo) == []
    assert set(zoo.catalog["status"].to_pylist()) == {"failed"}
    again = command(
        *BUILD, tmp_path, *(part for setting in settings for part in ("--set", setting))
    )
    assert again.code == 3, again.err
    assert "failed      200 members have no weights: 200 diverged" in again.out


def stopped_on_the_way(zoo: Path) -> tuple[subprocess.Popen, psutil.Process]:
    """A build that has committed one shard, but not all, and the process that does its work."""
    process = start_dwszoo(*BUILD, zoo)
    worker = worker_of(process)
    deadline = time.monotonic() + 120
    while not list(zoo.glob("catalog/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.suspend()
    return process, worker


def finish_here(zoo: Path):
    """Continue a build in this process."""
    plan, pending = plan_zoo(smoke().zoo, zoo), pending_shards(zoo)
    for shard in plan.shards:
        if shard.name in pending:
            fit_shard(plan.record.config, zoo, plan.signals, shard)
    archive(zoo, fitted=True)


def test_a_build_keeps_others_out_says_that_its_raylet_was_killed_and_the_next_continues(
    command, built_zoo, tmp_path
):
    build, worker = stopped_on_the_way(tmp_path)
    other = command(*BUILD, tmp_path)
    assert other.code == 2
    assert "is in use by another dwszoo process" in other.err
    (raylet,) = (child for child in worker.children() if child.name() == "raylet")
    raylet.kill()
    worker.resume()
    _, err = build.communicate(timeout=120)
    assert build.returncode == 1
    ended = "dwszoo: Ray's raylet on this machine ended (killed, or out of memory)"
    assert err.splitlines()[-1] == f"{ended}: run the same command again to continue"
    assert "Traceback" not in err
    committed = {path: path.stat().st_mtime_ns for path in tmp_path.glob("catalog/*.parquet")}
    assert committed
    finish_here(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in committed} == committed
    assert contents(tmp_path) == contents(built_zoo)


def in_a_namespace(script: str) -> subprocess.CompletedProcess:
    """Run a shell script with private mounts, which end with it; `dwszoo` is the command."""
    script = f'dwszoo() {{ {sys.executable} -m flows.cli "$@"; }}; {script}'
    result = subprocess.run(
        ["unshare", "-r", "-m", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip(f"no private mounts here: {result.stderr.strip()}")
    return result


def test_a_full_disk_is_said_and_nothing_committed_is_lost(built_zoo, tmp_path):
    """On a tmpfs of 128 kB, which holds some of the shards."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    result = in_a_namespace(
        f"mkdir {disk} && mount -t tmpfs -o size=128k none {disk} && "
        f"dwszoo {' '.join(BUILD)} {disk}; code=$?; cp -r {disk} {kept}; exit $code"
    )
    assert result.returncode == 1, result.stderr
    assert "No space left on device" in result.stderr
    assert "run the same command again to continue" in result.stderr
    assert "Traceback" not in result.stderr
    committed = {path: path.stat().st_mtime_ns for path in kept.glob("catalog/*.parquet")}
    assert committed
    assert not list(kept.glob("*/.*.tmp"))
    finish_here(kept)
    assert {path: path.stat().st_mtime_ns for path in committed} == committed
    assert contents(kept) == contents(built_zoo)


def test_a_folder_that_cannot_be_written_is_said_and_can_be_read(zoo_copy):
    (zoo_copy / "statistics.json").unlink()
    result = in_a_namespace(
        f"mount --bind {zoo_copy} {zoo_copy} && mount -o remount,bind,ro {zoo_copy} && "
        f"dwszoo zoo info {zoo_copy}; echo $?; dwszoo {' '.join(BUILD)} {zoo_copy}; echo $?"
    )
    assert "members       400" in result.stdout
    assert result.stdout.splitlines()[-2:] == ["0", "2"], result.stderr
    assert (
        f"cannot write to {zoo_copy} (Read-only file system): choose another --out" in result.stderr
    )


def test_an_image_that_cannot_be_decoded_is_a_failed_member_and_the_others_are_fitted(
    command, caplog, tmp_path
):
    images = tmp_path / "images"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(np.full((8, 8), 90 + number, np.uint8)).save(
                images / name / f"{number}.png"
            )
    broken = images / "b" / "3.png"
    broken.write_bytes(broken.read_bytes()[:50])
    settings = [
        f"zoo.signals.path={images}",
        "zoo.inr.hidden=[8, 8]",
        "zoo.fit.max_steps=20",
        "zoo.views=2",
    ]
    arguments = [
        "zoo",
        "build",
        "images",
        *(part for setting in settings for part in ("--set", setting)),
    ]
    zoo = tmp_path / "zoo"
    for message in ("40 INRs fitted at", "is complete"):
        with without_ray():
            result = command(*arguments, "--workers", "1", "--out", zoo)
        assert result.code == 3, result.err
        assert (
            "1 of 20 signals of images cannot be read and are left out: b/3.png cannot be decoded"
            in caplog.text
        )
        assert message in result.out
        assert "failed      2 members have no weights: 2 unreadable" in result.out
    assert verify_zoo(Zoo.open(zoo)) == []
    assert Zoo.open(zoo).catalog["stop_reason"].to_pylist().count("unreadable") == 2
