import io
import re

import numpy as np
import pytest

from flows.bars import FitBar
from flows.progress import LINE_SECONDS, RATE_SECONDS, Progress, draws_bars, figure
from flows.tracker import Tracker, tracker
from pipeline.archive.plan import ShardPlan
from pipeline.zoos.build import ShardSummary
from pipeline.zoos.inrs import Inrs

pytestmark = pytest.mark.fast


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_whole_lines_with_a_rate_in_the_fields_unit():
    log = io.StringIO()
    bar = Progress("fit", 2000, "INRs", stream=log)
    bar.update(500, "mean PSNR 30.1 dB")
    bar.update(600, "mean PSNR 30.1 dB")
    bar.update(2000, "mean PSNR 30.2 dB")
    bar.close()
    first, last = log.getvalue().splitlines()
    assert first.startswith("fit: 500/2,000 INRs (25 %), ")
    assert last.startswith("fit: 2,000/2,000 INRs (100 %), ")
    assert "INRs/s, mean PSNR 30.2 dB" in last
    assert "\r" not in log.getvalue()


def test_who_tracks_a_flow_is_told_of_each_move():
    class Recorder(Tracker):
        moves = ()

        def progress(self, *move):
            self.moves += (move,)

    token = tracker.set(recorder := Recorder())
    try:
        bar = Progress("fit", 20, "INRs", stream=io.StringIO())
        bar.update(5, "one")
        bar.update(20, "all")
    finally:
        tracker.reset(token)
    bar.update(21, "nobody")
    assert recorder.moves == (("fit", 5, 20, "one"), ("fit", 20, 20, "all"))


def test_a_notebook_with_widgets_gets_bars():
    """There `tqdm.auto` has them; its standard error is no terminal."""
    widget = type("tqdm_notebook", (), {"__module__": "tqdm.notebook"})
    assert draws_bars(io.StringIO(), type("Bar", (widget,), {}))
    assert not draws_bars(io.StringIO())
    assert draws_bars(Terminal())


def test_a_terminal_gets_one_bar_that_moves():
    terminal = Terminal()
    bar = Progress("train", 100, "models", stream=terminal)
    bar.update(100, "epoch 1/1")
    bar.close()
    assert "\r" in terminal.getvalue()
    assert "epoch 1/1" in terminal.getvalue()
    assert "100/100" in terminal.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_nothing_is_left_of_what_never_began(stream):
    shown = stream()
    Progress("export", 400, "members", stream=shown).close()
    assert not shown.getvalue().rpartition("\r")[2].strip()


class Clock:
    def __init__(self, monkeypatch):
        self.seconds = 1000.0
        monkeypatch.setattr("flows.progress.time.monotonic", lambda: self.seconds)


def rate_after(clock: Clock, steps: list[tuple[float, int]], done: int = 0) -> float:
    """The rate that a log shows after `steps`, each of some seconds and the amount done by then."""
    log = io.StringIO()
    bar = Progress("train", 10**6, "models", done, log)
    for seconds, done in steps:
        clock.seconds += seconds
        bar.update(done, "")
    clock.seconds += LINE_SECONDS
    bar.update(done, "")
    rate = re.search(r"([\d.,]+) models/s", log.getvalue().splitlines()[-1])
    return float(rate[1].replace(",", "")) if rate else 0


def test_the_rate_is_the_present_one_without_the_start(monkeypatch):
    clock = Clock(monkeypatch)
    assert rate_after(clock, []) == 0
    assert rate_after(clock, [(15, 1000)], done=900) == 0  # its time is not known yet
    assert rate_after(clock, [(100, 0), (20, 4000), (5, 5000)]) == 100  # 1,000 in 5 + 5 s
    steady = [(1, 50 * (second + 1)) for second in range(60)]
    faster = [(1, 3000 + 500 * (second + 1)) for second in range(60)]
    assert rate_after(clock, [(100, 0), *steady, *faster]) == pytest.approx(
        500 * RATE_SECONDS / (RATE_SECONDS + LINE_SECONDS), rel=0.05
    )
    assert rate_after(clock, [(100, 0), *steady, (3600, 3000)]) < 0.1  # no progress
    coarse = [(90, 4096 * (shard + 1)) for shard in range(5)]
    assert rate_after(clock, coarse) == pytest.approx(4096 / 95, rel=0.05)


def test_a_bar_shows_the_same_rate(monkeypatch):
    clock, terminal = Clock(monkeypatch), Terminal()
    bar = Progress("train", 10**6, "models", stream=terminal)
    for seconds, done in [(100, 0), (20, 4000), (10, 6000)]:
        clock.seconds += seconds
        bar.update(done, "")
    assert "200.00models/s" in terminal.getvalue().split("\r")[-1]


def test_a_terminal_that_cannot_draw_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    bar = Progress("train", 100, "models", stream=terminal)
    bar.update(99, "epoch 1/1")
    bar.close()
    assert terminal.getvalue().startswith("train: 99/100 models (99 %), ")
    assert "\r" not in terminal.getvalue()


def test_nothing_is_said_twice():
    log = io.StringIO()
    bar = Progress("fit", 10, "INRs", stream=log)
    bar.update(10, "mean PSNR 30.0 dB")
    bar.close()
    assert len(log.getvalue().splitlines()) == 1


def test_the_bar_of_a_fit_counts_shards_under_way_and_none_that_failed():
    one, other = (
        ShardPlan(f"train-{number:06d}", "train", np.arange(100), np.zeros(100, int))
        for number in range(2)
    )
    bar, seen = FitBar(Inrs, [one, other]), []
    for step in (
        lambda: bar.advance(one, 30),
        lambda: bar.advance(other, 80),
        lambda: bar.advance(one, 90),
        lambda: bar.finish(one, ShardSummary(one.name, 100, 20, 80 * 31.5)),
        lambda: bar.advance(other, 85),
        lambda: bar.finish(other, OSError("the disk is gone")),
    ):
        step()
        seen.append((bar.bar.done, bar.bar.note))
    assert [done for done, _ in seen] == [30, 110, 170, 180, 185, 100]
    assert seen[0][1] == "the first shards are under way"
    assert seen[-1][1] == "mean PSNR 31.5 dB, 20 failed, 1 of 2 shards failed"


def test_the_bar_of_a_fit_that_failed_is_empty():
    shards = [
        ShardPlan(f"train-{number:06d}", "train", np.arange(100), np.zeros(100, int))
        for number in range(2)
    ]
    bar = FitBar(Inrs, shards)
    for shard in shards:
        bar.advance(shard, 90)
        bar.finish(shard, OSError("the disk is gone"))
    assert (bar.bar.done, bar.bar.note) == (0, "2 of 2 shards failed")


def test_slow_rates_have_digits_too():
    assert [figure(rate) for rate in (0.194, 5.0, 12.3, 24_731.0)] == ["0.19", "5", "12", "24,731"]
