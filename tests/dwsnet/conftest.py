"""Tests run with every annotation of dwsnet checked (pyproject.toml: jaxtyping and beartype)."""

import jaxtyping
import pytest


@pytest.fixture
def unchecked(monkeypatch):
    """Annotations unchecked, as for users: for errors of our own, and for torch.compile."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
