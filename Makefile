# make demo and make test do all the set-up they need; nothing else has to be typed first.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help setup demo test lint types wheels wheel-check fuzz large bench clean

help:                ## show this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

setup: $(READY)      ## make .venv with everything development needs

$(READY): constraints.txt runtime/pyproject.toml exporter/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	    -e 'runtime[cpu]' -e exporter hypothesis mypy pre-commit pytest ruff
	touch $@

demo: $(READY)       ## export, verify and stream the reference networks, the last without PyTorch
	$(BIN)/python -m demo

test: $(READY)       ## run the tests
	$(BIN)/python -m pytest -m 'not large'

fuzz: $(READY)       ## export and verify 500 random networks
	STATEPORT_FUZZ=500 $(BIN)/python -m pytest tests/exporter/test_random_networks.py

large: $(READY)      ## run the tests that need several gigabytes
	$(BIN)/python -m pytest -m large

lint: $(READY)       ## check style and the boundary between runtime and exporter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)      ## check types, strictly
	$(BIN)/mypy

wheels: $(READY)     ## build both wheels into dist/
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist ./runtime ./exporter

wheel-check: wheels  ## run the exported reference from the wheel alone, where PyTorch is not installed
	$(BIN)/python -m demo.wheel_check

bench: $(READY)      ## measure stateport beside its peers, in one run
	$(BIN)/python -m benchmarks.step

clean:               ## remove everything that was made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
