# Two commands for a fresh machine: `make demo` and `make test`. Everything else is for developers.
#
#   PYTHON=python3.12 make demo    another interpreter (3.10 to 3.13)
#   VENV=/some/folder make test    another place for the environment

VENV ?= .venv
PYTHON ?= $(shell sh tools/find-python)
BIN := $(VENV)/bin
# Where it is set, each of the many processes of the tests would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

# Compiles all packages, also for users who may not write there. Some hold templates that are not
# Python: these stay as they are.
COMPILE = -@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib

MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

.PHONY: help demo test check docs docs-serve fuzz bench lint install install-dev slurm test-slurm clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

# pip would compile all packages, which takes a third of its time, and most modules are never imported.
# Python compiles a module when it is first imported, and keeps the result.
$(VENV)/.core: setup.cfg setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 to 3.13 found; install one, or say PYTHON=/path/to/python make …" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[fast]' \
	    || $(BIN)/python -m pip install --quiet --no-compile --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	$(COMPILE)
	@touch $@

install: $(VENV)/.core  ## install l3hpc into .venv
	$(COMPILE)

install-dev: $(VENV)/.dev  ## also install the test dependencies

slurm:  ## install a real Slurm for the tests (Debian or Ubuntu, as root)
	sh tools/install-slurm

test-slurm:  ## run tests/cluster on newer Slurm in chroots, as root (SUITE=trixie or sid; default: both; VM=1, NFS=1: in a virtual machine)
	tools/test-slurm $(if $(NFS),--nfs,$(if $(VM),--vm)) $(or $(SUITE),trixie sid)

demo: $(VENV)/.core  ## run the whole pipeline on a synthetic city and show the results
	$(BIN)/l3hpc demo --yes

test: $(VENV)/.dev slurm  ## run all tests (with a real Slurm if it can be installed)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n auto --dist loadfile

check: $(VENV)/.dev  ## ruff, mypy and the quick tests (no Slurm, no TensorFlow)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n auto --dist loadfile --quick

docs: $(VENV)/.dev  ## build the documentation into site/ (fails on a broken link)
	$(MKDOCS) build --quiet

docs-serve: $(VENV)/.dev  ## show the documentation while it is written
	$(MKDOCS) serve

fuzz: $(VENV)/.dev  ## try 5,000 malformed inputs (SEED=2 for different ones)
	$(BIN)/python -m tests.fuzz --inputs 5000 --seed $(or $(SEED),1)

bench: $(VENV)/.dev  ## run all benchmarks against their peers (hours; results in benchmarks/results)
	$(BIN)/python -m benchmarks

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## remove the environment and generated folders
	rm -rf $(VENV) build dist site *.egg-info demo fuzz-failures .pytest_cache .mypy_cache .ruff_cache
