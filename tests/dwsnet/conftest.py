"""Tests run with every annotation of dwsnet checked (pyproject.toml: jaxtyping and beartype)."""

import jaxtyping
import pytest


@pytest.fixture
def unchecked(monkeypatch):
    """As users run dwsnet, without checked annotations: for mistakes that our own sentences name, and for torch.compile."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
