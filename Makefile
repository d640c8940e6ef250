# make demo      back up, verify, list and restore an encrypted sample image
# make test      all checks: ruff, codespell, mypy --strict, pytest; coverage if the whole suite runs
# make trials    random and long tests; SEED=, COUNT= and ROUNDS= repeat or lengthen them
# make format    fix what ruff can fix
# make man       manual pages in build/man
# make release   build a wheel and an sdist and check them; nothing is uploaded
#
# All create .venv first, from PyPI. PYTHON=python3.13 selects another interpreter,
# WORKERS=1 another number of test processes, PYTEST_ARGS="-k name" a part of the tests.

PYTHON ?= python3
WORKERS ?= auto
PYTEST_ARGS ?=
RELEASE_ARGS ?=
SEED ?= $(shell date +%s)
COUNT ?= 1000
ROUNDS ?= 5

# Of a full run: fail where an assert never ran, tell the share of statements that did.
COVERAGE := -p tools.assert_coverage -p tools.statement_coverage

VENV := .venv
BIN := $(VENV)/bin
# Debian packages ensurepip separately, so a virtual environment may have no pip of its own.
PIP = $$($(BIN)/python -c 'import pip' 2>/dev/null && echo "$(BIN)/python -m pip" || echo "$(PYTHON) -m pip --python $(BIN)/python")

.PHONY: demo test lint format man release trials fixtures clean

demo: $(VENV)/.ready-demo
	$(BIN)/python tools/demo.py

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) $(COVERAGE) $(PYTEST_ARGS)

lint: $(VENV)/.ready-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m codespell_lib
	$(BIN)/python -m mypy

format: $(VENV)/.ready-test
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

man: $(VENV)/.ready-demo
	$(BIN)/python -m tools.man_pages build/man

release: $(VENV)/.ready-release
	$(BIN)/python -m tools.release $(RELEASE_ARGS)

# The fuzzer in both modes, then Hypothesis' tests with other examples in each round; findings go to build/trials.
trials: $(VENV)/.ready-test
	$(BIN)/python -m tools.trials --seed $(SEED) --count $(COUNT) --rounds $(ROUNDS) --workers $(WORKERS)

# Needs root and loop mounts: makes the images of tests/fixtures again with the running kernel.
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

$(VENV)/.ready-release: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable '.[release]'
	touch $@ $(VENV)/.ready-demo
