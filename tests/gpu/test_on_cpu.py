"""The part of the GPU check that runs on a CPU: its lines pass and fail when they should."""

import math

import pytest
import torch

from tests.gpu import layers, members
from tests.gpu.row import bounded


def test_layers_pass(monkeypatch):
    monkeypatch.setattr(layers, "GPU", torch.device("cpu"))
    rows = [*layers.equivariant_layers(), *layers.invariant_layers()]
    assert len(rows) == 18
    assert all(row.ok for row in rows)


def test_members_pass(monkeypatch):
    monkeypatch.setattr(members, "GPU", torch.device("cpu"))
    rows = [*members.decoding(), *members.augmentation()]
    assert len(rows) == 5
    assert all(row.ok for row in rows)


@pytest.mark.parametrize("error", [2e-9, math.nan])
def test_what_is_out_of_bounds_fails(error):
    assert not bounded("a layer", error, 1e-9).ok
