"""The verbs as Prefect flows: their forms, retries, and that they work without Prefect."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from prefect import Flow
from prefect.exceptions import ObjectNotFound
from prefect.states import Failed

from flows import deployments, flows, prefect_tracker
from flows.prefect_tracker import PrefectTracker, may_pass
from flows.schedule import ScheduledRun
from flows.stages import learn
from flows.tracker import Tracker, tracker
from pipeline.config import ResourcesConfig
from pipeline.errors import ArchiveError, DivergenceError, InputError, TimeLimitError, WorkError

FLOWS = {name: found for name, found in vars(flows).items() if isinstance(found, Flow)}


def test_each_verb_has_a_flow_where_workers_look_for_it():
    assert set(FLOWS) == {"build", "grow", "train", "evaluate", "edit", "run"}
    for name, found in FLOWS.items():
        assert (found.name, found.__module__, found.__name__) == (name, "flows.flows", name)


@pytest.mark.parametrize("name", FLOWS)
def test_a_form_says_what_each_parameter_means(name):
    schema = FLOWS[name].parameters
    assert schema.properties
    for field in schema.properties.values():
        assert field["description"].endswith(".")
        assert field.get("type") or field.get("enum")
    assert set(schema.required) == {
        field for field, shown in schema.properties.items() if "default" not in shown
    }


def test_a_form_knows_what_a_field_may_be():
    assert FLOWS["evaluate"].parameters.properties["split"]["enum"] == [
        "train",
        "validation",
        "test",
    ]
    settings = FLOWS["run"].parameters.properties["settings"]
    assert settings["type"] == "array"
    assert settings["items"]["pattern"] == r"^[\w.]+ *="


@pytest.mark.parametrize(
    ("error", "is_scheduled", "retried"),
    [
        (WorkError("a shard"), True, True),
        (TimeLimitError("fitting"), True, True),
        (ConnectionError("Ray is gone"), True, True),
        (ConnectionError("Ray is gone"), False, False),
        (DivergenceError("not finite"), True, False),
        (InputError("zoo.views"), True, False),
        (ArchiveError("damaged"), True, False),
        (FileNotFoundError("a file"), True, False),
    ],
)
def test_a_scheduled_stage_is_run_again_where_it_may_pass(
    error, is_scheduled, retried, monkeypatch
):
    if is_scheduled:
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "of a schedule")
    assert may_pass(None, None, Failed(data=error)) == retried


def test_a_verb_that_no_server_sees_needs_no_prefect():
    code = "import sys, flows.run, flows.server; print('prefect' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"


@pytest.fixture
def artifacts(monkeypatch) -> dict[str, list]:
    """The artifacts sent to Prefect, by key; the server is gone for the key `gone`."""
    shown = {}

    def create(percent, key, text):
        if "gone" in key:
            raise httpx.ConnectError("gone")
        shown[key] = [(percent, text)]
        return key

    monkeypatch.setattr(prefect_tracker, "create_progress_artifact", create)
    monkeypatch.setattr(
        prefect_tracker,
        "update_progress_artifact",
        lambda key, percent, text: shown[key].append((percent, text)),
    )
    return shown


@pytest.mark.parametrize(("seconds", "shown"), [(0, (0, 100, 200)), (3600, (0, 200))])
def test_progress_is_shown_at_its_start_now_and_then_and_at_its_end(
    seconds, shown, artifacts, monkeypatch
):
    monkeypatch.setattr(prefect_tracker, "PROGRESS_SECONDS", seconds)
    tracked = PrefectTracker(Path("runs/My run"))
    for done in (0, 100, 200):
        tracked.progress("flat MLP, seed 1", done, 200, "epoch 1")
    assert artifacts == {
        "my-run-flat-mlp-seed-1": [
            (done / 2, f"flat MLP, seed 1: {done} of 200, epoch 1") for done in shown
        ]
    }


def test_a_server_that_is_gone_is_asked_once(artifacts):
    tracked = PrefectTracker("run")
    tracked.progress("gone", 0, 1, "")
    tracked.progress("fit", 0, 1, "")
    assert artifacts == {}
    assert not tracked.answers


def test_a_pool_that_is_not_there_is_a_sentence(monkeypatch):
    def missing(name: str):
        raise ObjectNotFound(None)

    pools = SimpleNamespace(
        read_work_pool=missing, read_work_pools=lambda: [SimpleNamespace(name="nights")]
    )
    monkeypatch.setattr(deployments, "get_client", lambda **_: nullcontext(pools))
    with pytest.raises(InputError, match=r"no work pool 'night'.* did you mean 'nights'"):
        deployments.job_variables({}, "night")


@pytest.mark.parametrize(("kind", "is_refused"), [("process", False), ("kubernetes", True)])
def test_a_container_has_folders_of_its_own(kind, is_refused, tmp_path, monkeypatch):
    pool = SimpleNamespace(read_work_pool=lambda name: SimpleNamespace(type=kind))
    monkeypatch.setattr(deployments, "get_client", lambda **_: nullcontext(pool))
    monkeypatch.chdir(tmp_path)
    shared = ScheduledRun(recipe="smoke", out="/shared/run", interval=60)
    here = ScheduledRun(recipe="smoke", out="run", interval=60)
    variables = {} if is_refused else {"working_dir": str(tmp_path)}
    assert deployments.job_variables({"a": shared}, "nights") == variables
    if is_refused:
        with pytest.raises(InputError, match=r"b: out must be an absolute path .* got run: "):
            deployments.job_variables({"a": shared, "b": here}, "nights")
    else:
        assert deployments.job_variables({"a": shared, "b": here}, "nights") == variables


def test_each_model_that_was_trained_is_an_event(tmp_path, monkeypatch):
    class Recorder(Tracker):
        events = ()

        def event(self, name, folder):
            self.events += ((name, folder),)

    monkeypatch.setattr(learn, "is_trained", lambda run, training: training == "trained")
    monkeypatch.setattr(learn, "TrainingBars", lambda _: SimpleNamespace(look=0, close=list))
    monkeypatch.setattr(learn, "launch_training", lambda *_: None)
    jobs = [SimpleNamespace(run=tmp_path / state, training=state) for state in ("new", "trained")]
    token = tracker.set(recorder := Recorder())
    try:
        assert learn.run_jobs(None, jobs, ResourcesConfig())
    finally:
        tracker.reset(token)
    assert recorder.events == (("model.trained", tmp_path / "new"),)
