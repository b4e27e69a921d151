# One command for each thing that a person or a machine wants. Everything happens in this directory:
# the virtual environment is .venv, and `make clean` removes all that the others made but that.

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-compiled test-kernel compiled lint types layers format bench bench-kernel conformance fuzz venv system-packages clean distclean

# The first Python of 3.11 or later that this machine has.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; \
	done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST_ARGS ?=
BENCH_ARGS ?=
# What is compiled stands in a directory of its own, which nothing takes for the sources.
COMPILED := PRATIMA_COMPILED=1 PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/compiled:$(CURDIR)
COMPILED_TESTS := $(addprefix tests/,unit properties scenarios simulation torture conformance \
	integration/daemons integration/links integration/portal)

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

quickstart: $(VENV)/.installed ## a target and a replica on loopback, written through a real login, compared
	@$(BIN)/python tools/quickstart.py

test: system-packages $(VENV)/.installed-dev lint types layers ## every check and test that this machine can run
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-compiled: system-packages build/compiled/.built ## the tests of the hot path, with the hot path compiled
	$(COMPILED) PRATIMA_SEEDS=300 $(BIN)/python -m pytest --import-mode=append \
		-m "not long and not kernel and not plain" $(COMPILED_TESTS) $(PYTEST_ARGS)

test-kernel: system-packages $(VENV)/.installed-dev ## LIO, TCMU and initiators of a real kernel, in virtual machines
	$(BIN)/python -m pytest -m kernel tests/kernel $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed-dev
	$(BIN)/mypy --strict pratima_iscsi
	$(BIN)/mypy --strict --config-file targetcli-ext/setup.cfg targetcli-ext/pratima_targetcli

layers: $(VENV)/.installed-dev
	$(BIN)/lint-imports --no-cache
	$(BIN)/lint-imports --no-cache targetcli-ext/setup.cfg

format: $(VENV)/.installed-dev ## lay out the sources as `make test` wants them
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: build/compiled/.built ## docs/benchmark.md: this target beside tgtd, with and without a replica
	$(COMPILED) $(BIN)/python -m benchmarks --write docs/benchmark.md $(BENCH_ARGS)

bench-kernel: build/compiled/.built ## beside tcmu-runner and DRBD, in virtual machines (BENCH_ARGS: --help tells them)
	$(COMPILED) $(BIN)/python -m benchmarks.kernel $(BENCH_ARGS)

conformance: $(VENV)/.installed-dev ## docs/conformance.md: libiscsi's suite on this target and on tgtd
	$(BIN)/python -m tests.conformance --write docs/conformance.md

fuzz: $(VENV)/.installed-dev ## more than 1,000,000 executions, in about 20 minutes
	$(BIN)/python -m tests.fuzz --runs 1000000 --seconds 110

venv: $(VENV)/.installed-dev ## the virtual environment with all that development needs

system-packages: # what tests want of the system: installed where that is allowed, else named
	@.ci/system-packages

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python of 3.11 or later here: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable .
	@touch $@

# targetcli comes without what it depends on: PyGObject does not build everywhere, and is not needed.
$(VENV)/.installed-dev: setup.cfg pyproject.toml targetcli-ext/setup.cfg | $(BIN)/python
	$(PIP) install --quiet --editable '.[dev]' --editable targetcli-ext
	$(PIP) install --quiet --no-deps 'targetcli>=3,<4'
	@touch $@ $(VENV)/.installed

compiled: build/compiled/.built ## the package with its hot path compiled, in build/compiled

build/compiled/.built: setup.py setup.cfg $(shell find pratima_iscsi -name '*.py') | $(VENV)/.installed-dev
	rm -rf build
	PRATIMA_COMPILE=1 $(PIP) install --quiet --no-deps --no-build-isolation --target build/compiled .
	@touch $@

clean: ## remove what builds and tests left behind
	rm -rf build dist *.egg-info targetcli-ext/*.egg-info targetcli-ext/build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* quickstart-data
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## and the virtual environment
	rm -rf $(VENV)
