"""Schedules: the contents of a file, and runs that start on time, stop and continue."""

import signal

import psutil
import pytest

from flows import flows, verbs
from flows.schedule import read_schedule
from pipeline.archive.files import exclusive
from pipeline.errors import InputError, InUseError
from tests.conftest import contents, start_dwszoo, wait_for
from tests.pipeline.worlds import without_ray

GOOD = 'recipe = "smoke"\nout = "runs/smoke"\n'


def test_a_file_has_a_table_for_each_run(tmp_path):
    file = tmp_path / "nightly.toml"
    file.write_text(
        f'[night]\n{GOOD}cron = "0 3 * * *"\ntimezone = "Europe/Berlin"\n'
        'settings = ["zoo.views=4"]\n'
        '[often]\nrecipe = "digits"\nout = "runs/often"\ninterval = "PT6H"\n'
        '[weekly]\nrecipe = "digits"\nout = "runs/weekly"\nrrule = "FREQ=WEEKLY;BYDAY=SU"\n'
    )
    runs = read_schedule(file)
    assert [run.when for run in runs.values()] == [
        "0 3 * * * (Europe/Berlin)",
        "every 6:00:00",
        "FREQ=WEEKLY;BYDAY=SU (UTC)",
    ]
    assert runs["night"].settings == ("zoo.views=4",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have a table for each scheduled run"),
        ('cron = "0 3 * * *"', "must have a table for each scheduled run"),
        (f"[a]\n{GOOD}", "one of cron, interval and rrule must be set, found none"),
        (f'[a]\n{GOOD}cron = "0 3 * * *"\ninterval = 5', "found cron and interval"),
        (f'[a]\n{GOOD}cron = "0 3 * *"', 'cron: input should be .*, got "0 3 \\* \\*"'),
        (
            f'[a]\n{GOOD}rrule = "daily"',
            'rrule: input should be a rule of RFC 5545.*, got "daily"',
        ),
        (f"[a]\n{GOOD}interval = -5", "interval: input should be positive"),
        (f'[a]\n{GOOD}interval = 5\ntimezone = "Berlin"', 'IANA database, .*, got "Berlin"'),
        (f'[a]\n{GOOD}corn = "0 3 * * *"', "line 4: .*'corn'.* did you mean 'cron'"),
        (f"[a]\n{GOOD}interval = true", "interval: input should be seconds or such as PT6H"),
        (f'[a]\n{GOOD}cron = "0 0 30 2 *"', "cron: input should have a time that is still to come"),
        (f'[a]\n{GOOD}rrule = "FREQ=DAILY;COUNT=0"', "rrule: input should have a time that is"),
        (f'[a]\n{GOOD}rrule = "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"', "rrule: input should have a"),
        (
            f'[a]\n{GOOD}rrule = "FREQ=DAILY;UNTIL=20200101T000000"',
            "rrule: input should have a time",
        ),
        (
            '[a]\nrecipe = "smoke"\nout = "s3://a/b"\ninterval = 5',
            "out: .* only zoos can be at a URI",
        ),
        ('[a]\nrecipe = "smoke"\nout = ""\ninterval = 5', "out: input should be a folder on this"),
        (f'["a/b"]\n{GOOD}interval = 5', "must not contain /%&<>, got 'a/b'"),
        (f"[a]\n{GOOD}interval = 5\n[b]\n{GOOD}interval = 6", "a and b are both in .*runs/smoke"),
        (
            f'[a]\n{GOOD}interval = 5\n[b]\nrecipe = "smoke"\nout = "runs"\ninterval = 6',
            "a and b are both in .*runs:",
        ),
    ],
)
def test_what_is_no_schedule_is_one_sentence(tmp_path, text, message):
    file = tmp_path / "nightly.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_schedule(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("smok", "there is no recipe 'smok'"),
        ("cifar-binary", "makes a zoo and trains nothing"),
        ("images", "signals.path must say where source 'folder' is, got null"),
        ("mlps", "growth takes a zoo of INRs, got zoo.kind classifiers"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_before_anything_is_served(
    command, tmp_path, recipe, message
):
    file = tmp_path / "nightly.toml"
    settings = '["growth.views=1"]' if recipe == "mlps" else "[]"
    run = f'recipe = "{recipe}"\nout = "runs/a"\nsettings = {settings}\ninterval = 5\n'
    file.write_text(f"[a]\n{run}")
    result = command("serve", file)
    assert result.code == 2
    assert message in result.err


def test_a_scheduled_run_is_ended_by_a_signal_and_goes_on_the_next_time(built_zoo, tmp_path):
    file, out = tmp_path / "often.toml", tmp_path / "run"
    file.write_text(f'[often]\nrecipe = "smoke"\nout = "{out}"\ninterval = 5\n')
    process = start_dwszoo("serve", file)
    wait_for(lambda: (out / "zoo" / "zoo.json").exists() or process.poll() is not None, 120)
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert err.endswith("dwszoo: interrupted: run the same command again to continue\n")
    assert "Traceback" not in err
    wait_for(lambda: not any(child.is_running() for child in children), 30)
    with without_ray():
        verbs.build("smoke", str(out / "zoo"))
    assert contents(out / "zoo") == contents(built_zoo)


def test_a_scheduled_run_is_skipped_where_another_is_at_work(tmp_path, monkeypatch):
    with exclusive(tmp_path):
        with pytest.raises(InUseError, match="is in use by another dwszoo process"):
            flows.run.fn("smoke", tmp_path)
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "of a schedule")
        state = flows.run.fn("smoke", tmp_path)
        assert state.is_cancelled()
        assert "is in use by another dwszoo process" in state.message
