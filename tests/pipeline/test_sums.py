"""The sums of a task over batches do not depend on how members are batched."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.archive.zoo import Zoo
from pipeline.encoders import DWSNetConfig
from pipeline.tasks import Batch
from pipeline.tasks.classification import Classification
from pipeline.tasks.columns import batch_columns
from pipeline.tasks.editing import Editing
from pipeline.tasks.masked import Masked
from pipeline.tasks.reconstruction import Reconstruction
from pipeline.tasks.regression import Regression
from pipeline.training.scoring import sums_over

pytestmark = pytest.mark.fast

MEMBERS = 17
TASKS = (
    Classification(),
    Classification(column="view"),
    Regression(targets=("psnr", "psnr_off_grid"), inputs=("stop_reason",)),
    Editing(),
    Masked(share=0.4),
    Reconstruction(points=25),
)
"""All tasks except contrastive learning, which compares the pairs of a batch."""


def batch_of(zoo: Zoo, task) -> Batch:
    rows = np.arange(MEMBERS)
    columns = batch_columns(zoo.catalog.take(rows), task.columns)
    return Batch(zoo[rows], columns, torch.from_numpy(rows), zoo.record.class_names)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    order=st.permutations(range(MEMBERS)),
    cuts=st.sets(st.integers(1, MEMBERS - 1), max_size=5),
)
def test_metrics_are_those_of_one_batch_however_members_are_dealt(zoo, task, order, cuts):
    task.check(zoo)
    torch.manual_seed(0)
    encoder = DWSNetConfig(channels=4, num_layers=2, width=8).build(zoo.space)
    encoder.calibrate(zoo.statistics, {})
    model = task.build(encoder, task.prepare(zoo)).eval()
    task.attach(model, zoo)
    whole = batch_of(zoo, task)
    parts = [whole.take(torch.from_numpy(part)) for part in np.split(np.array(order), sorted(cuts))]
    found, expected = (task.metrics(sums_over(task, model, some)) for some in (parts, [whole]))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    fewer = task.metrics(sums_over(task, model, [whole.take(torch.arange(MEMBERS - 1))]))
    assert any(fewer[name] != pytest.approx(expected[name], rel=1e-4) for name in expected)
