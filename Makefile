# Two commands: `make demo` and `make test`. Each creates .venv and installs what is needed first.
# While working: `make test-fast`, which leaves out what takes long.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= python3

.PHONY: demo test test-fast lint install clean

demo: $(READY)
	$(BIN)/casam sim run demo --out runs/demo --overwrite

test: $(READY)
	$(BIN)/pytest

test-fast: $(READY)
	$(BIN)/pytest --fast tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .mypy_cache
