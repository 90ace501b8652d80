"""Here, annotations of dwsnet are checked (pyproject.toml: jaxtyping and beartype)."""

import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def annotations():
    """Checked, unlike in the tests of what uses dwsnet."""


@pytest.fixture
def unchecked(monkeypatch):
    """Annotations unchecked, as for users: for errors of our own, for torch.compile, and for much
    arithmetic, where the checks take almost half of the time.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
