# Everything runs in .venv, which is made from pyproject.toml with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
EXTRAS := test,docs
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# a folder is newer than the stamp when a module was added to it or removed
FOLDERS := $(shell find skild_physics cli data_gen -type d -not -name __pycache__)

.PHONY: reproduce docs test test-all test-gpu test-lowest pytest lint clean

reproduce: $(STAMP)
	$(BIN)/skild-physics reproduce

# the site, from the pages of docs/; the notebooks among them are run
docs: $(STAMP)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

# a process per core, of one thread each; a file's tests share fixtures and stay together. A process
# that a hang or a crash ends is not begun again, for it would meet the same test
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --max-worker-restart 0

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m "slow or not slow"

# a GPU against the CPU, in one process
test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu tests/test_gpu.py

# in a folder of its own, with all lower bounds of pyproject.toml at once
test-lowest:
	$(MAKE) pytest PYTHON=python3.11 VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt EXTRAS=test

pytest: $(STAMP)
	$(PYTEST)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p skild_physics -p skild_physics.cli -p skild_physics.data_gen

# strict editable: the type checker needs to see skild_physics.cli and skild_physics.data_gen
# under those names
$(STAMP): pyproject.toml $(CONSTRAINTS) $(FOLDERS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) setuptools torch
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --no-build-isolation \
		--config-settings editable_mode=strict --editable ".[$(EXTRAS)]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) .venv-lowest build *.egg-info .mypy_cache .pytest_cache .ruff_cache
