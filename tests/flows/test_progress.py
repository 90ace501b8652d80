import io

import numpy as np

from flows.progress import Progress, figure
from flows.stages import FitBar
from pipeline.archive import inrs
from pipeline.archive.build import ShardSummary
from pipeline.archive.plan import ShardPlan


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


def test_a_terminal_gets_one_bar_that_moves():
    terminal = Terminal()
    bar = Progress("train", 100, "models", stream=terminal)
    bar.update(100, "epoch 1/1")
    bar.close()
    assert "\r" in terminal.getvalue()
    assert "epoch 1/1" in terminal.getvalue()
    assert "100/100" in terminal.getvalue()


def test_what_was_done_before_does_not_count_for_the_rate(monkeypatch):
    now = iter(range(0, 100, 10))
    monkeypatch.setattr("flows.progress.time.monotonic", lambda: next(now))
    log = io.StringIO()
    bar = Progress("train", 1000, "models", 900, log)
    bar.update(1000, "epoch 10/10")
    assert log.getvalue() == "train: 1,000/1,000 models (100 %), 5 models/s, epoch 10/10, 20 s\n"


def test_nothing_is_said_twice():
    log = io.StringIO()
    bar = Progress("fit", 10, "INRs", stream=log)
    bar.update(10, "mean PSNR 30.0 dB")
    bar.close()
    assert len(log.getvalue().splitlines()) == 1


def test_the_bar_of_a_fit_counts_shards_under_way_and_never_goes_back():
    one, other = (
        ShardPlan(f"train-{number:06d}", "train", np.arange(100), np.zeros(100, int))
        for number in range(2)
    )
    bar, seen = FitBar(inrs, [one, other]), []
    for step in (
        lambda: bar.hear(one, 30),
        lambda: bar.hear(other, 80),
        lambda: bar.hear(one, 90),
        lambda: bar.finish(one, ShardSummary(one.name, 100, 20, 80 * 31.5)),
        lambda: bar.hear(other, 85),
        lambda: bar.finish(other, OSError("the disk is gone")),
    ):
        step()
        seen.append((bar.bar.done, bar.bar.note))
    assert [done for done, _ in seen] == [30, 110, 170, 180, 185, 200]
    assert seen[0][1] == "the first shards are under way"
    assert seen[-1][1] == "mean PSNR 31.5 dB, 20 failed"


def test_slow_rates_have_digits_too():
    assert [figure(rate) for rate in (0.194, 5.0, 12.3, 24_731.0)] == ["0.19", "5", "12", "24,731"]
