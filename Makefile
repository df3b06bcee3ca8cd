# `make test` is the whole check: environment, lint, types, tests. `make help` lists the rest.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
FLOOR  ?= .venv-floor
JOBS   ?= 2
SEED   ?= 0
PHOTOS ?=
# bytecode is kept, whatever the shell says: tests and the demo start many processes, which would compile it anew
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install demo test test-floor lint types unit benchmark torture clean

help:
	@echo "make demo       from nothing to a page: data, training, index, search, figures (SEED=n, PHOTOS=folder)"
	@echo "make install    environment in $(VENV) with everything for development"
	@echo "make test       install, lint, types and all tests"
	@echo "make unit       the tests alone"
	@echo "make test-floor the tests with the newest and with the lowest versions of all dependencies"
	@echo "make benchmark  speed ratios, printed and written to benchmark.json"
	@echo "make torture    200 kill -9 and 1,000 corruptions against an index"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: install
	$(BIN)/objemb demo --seed $(SEED) $(if $(PHOTOS),--photos "$(PHOTOS)")

lint: install
	$(BIN)/ruff check objemb tools tests
	$(BIN)/ruff format --check objemb tools tests

types: install
	$(BIN)/mypy

unit: install
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test: lint types unit

# ruff, mypy and pytest are the newest in both; nothing else is
test-floor: unit
	$(PYTHON) -m venv $(FLOOR)
	$(PYTHON) tools/floor.py > $(FLOOR)/constraints.txt
	$(FLOOR)/bin/python -m pip install --quiet --upgrade "pip>=25"
	$(FLOOR)/bin/python -m pip install --quiet --constraint $(FLOOR)/constraints.txt --editable ".[all,lance,postgres,qdrant,ray,s3]" "pgserver>=0.1.4" pytest pytest-xdist "setuptools>=77"
	$(FLOOR)/bin/python -m pytest -n $(JOBS) --dist worksteal

benchmark: install
	$(BIN)/python tools/benchmark.py -o benchmark.json

torture: install
	$(BIN)/python tools/torture_index.py

clean:
	rm -rf $(VENV) $(FLOOR) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
