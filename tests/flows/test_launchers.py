"""Training inside the job of another launcher: ranks are Ray's, sockets only on this machine."""

import json

import pytest

from pipeline.training.process_group import LAUNCHERS
from tests.conftest import EPOCHS
from tests.launchers import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_the_variables_of_each_family_are_known(family):
    assert all(LAUNCHERS.fullmatch(name) for name in FAMILIES[family])


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "AWS_REGION", "NCCL_DEBUG", "OMP_NUM_THREADS", "RANKING", "MY_RANK"]
)
def test_other_variables_stay(name):
    assert not LAUNCHERS.fullmatch(name)


def test_training_in_the_job_of_every_launcher(long_training):
    lines = (long_training.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    addresses = {address.removeprefix("::ffff:") for address in long_training.addresses}
    assert addresses == {"127.0.0.1"}
