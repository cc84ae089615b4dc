PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: help serve test test-fast check format coverage docs bench audit clean

help:  ## show these targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | expand -t 12

serve: $(VENV)/.serve  ## install what serving needs and start the service; ARGS="--port 9000"
	$(BIN)/tessera serve $(ARGS)

test: $(VENV)/.test check  ## install what the tests need, check and test everything
	$(BIN)/python -m pytest $(ARGS)

test-fast: $(VENV)/.test  ## the tests that are not marked slow
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

check: $(VENV)/.test  ## lint, format, types and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.test  ## bring the code into its one form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(VENV)/.test  ## all tests, and the lines that none of them runs
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

docs: $(VENV)/.test  ## write the tables that documents generate from settings, calibrations and result files
	$(BIN)/python -m benchmarks.documents

bench: $(VENV)/.test  ## the benchmarks that need no data: encoders and searches
	$(BIN)/python -m benchmarks.encoders
	$(BIN)/python -m benchmarks.search --templates 100000 --probes 300

audit: $(BIN)/python  ## known vulnerabilities of the pinned versions, risky code, and a list of all parts (sbom.json)
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --disable-pip-version-check --quiet 'bandit[toml]' cyclonedx-bom pip-audit
	$(VENV)-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip
	$(VENV)-audit/bin/bandit --quiet --recursive --severity-level medium --configfile pyproject.toml app model
	$(VENV)-audit/bin/cyclonedx-py environment $(BIN)/python --output-file sbom.json

clean:  ## remove the virtual environment and caches; the data directory stays
	rm -rf $(VENV) $(VENV)-audit $(VENV)-generators .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing some 600 MB of packages into $(VENV); this takes a minute or two."
	$(PIP) --editable .
	touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt tests/app/api/generators.txt
	$(PIP) --editable '.[train,dev]'
	$(PYTHON) -m venv $(VENV)-generators
	$(VENV)-generators/bin/python -m pip install --disable-pip-version-check --quiet --requirement tests/app/api/generators.txt
	touch $@ $(VENV)/.serve
