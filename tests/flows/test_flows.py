"""The verbs as Prefect flows: what a form shows of them, what is retried, and that they need no Prefect."""

import subprocess
import sys

import pytest
from prefect import Flow
from prefect.states import Failed

from flows import flows
from flows.prefect_tracker import may_pass
from pipeline.errors import ArchiveError, DivergenceError, InputError, WorkError

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
