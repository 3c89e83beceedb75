# Needs Python >= 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-slow test-oldest lint clean

quickstart: $(VENV)/.installed
	$(BIN)/vidgen fit --config configs/quickstart.yaml

test: $(VENV)/.installed
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

# The oldest supported torch, in an environment of its own.
test-oldest:
	$(MAKE) VENV=.venv-oldest TORCH='torch==2.11.*' test

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "vidgen needs Python 3.11 or newer; set PYTHON=/path/to/it" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]' $(TORCH)
	touch $@

clean:
	rm -rf .venv .venv-oldest runs build *.egg-info
