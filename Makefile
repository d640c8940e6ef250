# make demo   back up, verify, list and restore an encrypted sample image
# make test   everything that is checked: ruff, mypy --strict, pytest; coverage where the whole suite runs
# make trials what is random and takes long; SEED=, COUNT= and ROUNDS= repeat or lengthen it
#
# Both make .venv first, from PyPI. PYTHON=python3.13 picks another interpreter,
# WORKERS=1 another number of test processes, PYTEST_ARGS="-k name" a part of the tests.

PYTHON ?= python3
WORKERS ?= auto
PYTEST_ARGS ?=
SEED ?= $(shell date +%s)
COUNT ?= 1000
ROUNDS ?= 5

# Of a full run: fail where an assert never ran, tell the share of statements that did.
COVERAGE := -p tools.assert_coverage -p tools.statement_coverage

VENV := .venv
BIN := $(VENV)/bin
# Debian keeps ensurepip apart, so a virtual environment may have to do without a pip of its own.
PIP = $$($(BIN)/python -c 'import pip' 2>/dev/null && echo "$(BIN)/python -m pip" || echo "$(PYTHON) -m pip --python $(BIN)/python")

.PHONY: demo test lint trials fixtures clean

demo: $(VENV)/.ready-demo
	$(BIN)/python tools/demo.py

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) $(COVERAGE) $(PYTEST_ARGS)

lint: $(VENV)/.ready-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

# The fuzzer in both modes, then Hypothesis' tests with other examples in each round; findings go to build/trials.
trials: $(VENV)/.ready-test
	$(BIN)/python -m tools.trials --seed $(SEED) --count $(COUNT) --rounds $(ROUNDS) --workers $(WORKERS)

# Needs root and loop mounts: makes the images of tests/fixtures anew with the running kernel.
fixtures: $(VENV)/.ready-test
	$(BIN)/python -m tools.make_fixtures

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache dist build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV); }

$(VENV)/.ready-demo: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable .
	touch $@

$(VENV)/.ready-test: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable '.[test,lint]'
	touch $@ $(VENV)/.ready-demo
