# make setup | demo | test | lint | docs | wheel: each works from a fresh clone and builds .venv when there is none.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint format docs wheel

setup: $(VENV)/.installed

# The stamp makes a changed pyproject.toml or constraints.txt reinstall, and an interrupted install start again.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/shine-hf demo --output-dir outputs/shapes_cg

# Two workers with one thread each beat one worker with two threads: the tiny models of the tests are overhead-bound.
# SlipCover costs a few percent of the time; before Python 3.12, coverage.py doubles it. Processes that tests start are not counted.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m slipcover --source shine_hf --json --out .coverage.json -m pytest -n 2 --dist worksteal -m "not slow"
	$(BIN)/python scripts/coverage_summary.py .coverage.json

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

wheel: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
