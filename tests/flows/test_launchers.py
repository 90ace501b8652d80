"""A run inside the job of another launcher: ranks are Ray's, sockets only on this machine."""

import pytest

from pipeline.training.process_group import LAUNCHERS
from tests.conftest import metrics_of
from tests.launchers import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_the_variables_of_each_family_are_known(family):
    assert all(LAUNCHERS.fullmatch(name) for name in FAMILIES[family])


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "AWS_REGION", "NCCL_DEBUG", "OMP_NUM_THREADS", "RANKING", "MY_RANK"]
)
def test_other_variables_stay(name):
    assert not LAUNCHERS.fullmatch(name)


def test_a_run_in_the_job_of_every_launcher(smoke_run):
    assert [line["epoch"] for line in metrics_of(smoke_run.folder)] == [1, 2, 3]
    addresses = {address.removeprefix("::ffff:") for address in smoke_run.addresses}
    assert addresses == {"127.0.0.1"}
