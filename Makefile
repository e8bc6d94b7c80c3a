# Everything runs in .venv, which is made from pyproject.toml with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# a folder is newer than the stamp when a module was added to it or removed
FOLDERS := $(shell find skild_physics cli data_gen -type d -not -name __pycache__)

.PHONY: reproduce test test-all lint clean

reproduce: $(STAMP)
	$(BIN)/skild-physics reproduce

# a process per core, of one thread each; a file's tests share fixtures and stay together
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m "slow or not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p skild_physics

# strict editable: the type checker needs to see skild_physics.cli and skild_physics.data_gen
# under those names
$(STAMP): pyproject.toml constraints.txt $(FOLDERS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation \
		--config-settings editable_mode=strict --editable ".[test]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
