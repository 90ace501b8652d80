# Every command sets .venv up first; PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
FREEZE := .venv-lock/bin/pip freeze --all --exclude pip --exclude dwszoo | sed 's/+cpu$$//'

.PHONY: demo check test fast lint types docs lock clean

demo: .venv/installed
	$(BIN)/dwszoo run digits --out runs/demo

# Before a commit: under 90 seconds on two idle cores.
check: lint types fast

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 20

fast: .venv/installed
	$(BIN)/python -m pytest --numprocesses 2 --durations 5 -m fast

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

docs: .venv/installed
	$(PIP) --no-build-isolation --constraint requirements.lock --editable '.[docs]'
	$(BIN)/python -m mkdocs build --quiet

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

# Resolve pyproject.toml anew. A local version label (+cpu) depends on the machine and is left out.
# What Ray's dashboard and launchers need beside it is locked for the nodes of clusters alone.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade pip setuptools
	.venv-lock/bin/python -m pip install --quiet . --group dev
	$(FREEZE) > requirements.lock
	.venv-lock/bin/python -m pip install --quiet --constraint requirements.lock 'ray[default]'
	$(FREEZE) | grep -vxFf requirements.lock > cluster/launch/dashboard.lock
	rm -rf .venv-lock build

clean:
	rm -rf .venv .site .mypy_cache runs
