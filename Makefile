# Every target does its own set-up in a local .venv; the second time it is quick.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := $(VENV)/.installed-run
DEV    := $(VENV)/.installed-dev

.PHONY: help setup demo unit test everything compiled hosts saturation lint tools format bench recipes matrix outages wheel clean

help:            ## Show what there is to make
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 13) else f"Python 3.11 or 3.12 is needed, but {sys.executable} is {sys.version.split()[0]}: run make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(RUN): $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing the pinned environment into $(VENV) (once, a minute or two) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

$(DEV): $(RUN)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

setup: $(DEV)    ## Install everything for working on the project into .venv

demo: $(RUN)     ## Train a small ResNet on handwritten digits with two DeepSpeed workers
	$(BIN)/orchestrator train experiment=demo

unit: compiled   ## The fast tests: no Ray, two to three minutes
	$(BIN)/python -m pytest -q -n auto --dist loadfile tests/unit

test: lint tools compiled ## Lint, types, and the tests on this machine, of matrices a sample; CI runs this, and of make hosts one file
	$(BIN)/python -m pytest -q -n auto --dist loadfile tests/unit
	$(BIN)/python -m pytest -q --durations=40 tests/integration

everything: tools compiled  ## All tests on this machine, matrices whole: after a change to how runs are saved, killed or resumed (an hour)
	$(BIN)/python -m pytest -q -n auto --dist loadfile tests/unit
	$(BIN)/python -m pytest -q --all --durations=40 tests/integration

# Tests start hundreds of processes; where PYTHONDONTWRITEBYTECODE is set, each would compile our modules again.
compiled: $(DEV)
	@$(BIN)/python -m compileall -q orchestrator jobs hydra_plugins tests

hosts: $(DEV) tools  ## Tests on several hosts, which are network namespaces of this machine (needs root)
	$(BIN)/python -m pytest -q $(or $(ONLY),tests/cluster)

saturation: $(DEV) tools  ## Three hosts whose CPUs are busy for ten minutes: none of them is given up (needs root)
	$(BIN)/python -m tests.cluster.saturation 10

lint: $(DEV)     ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tools:           ## What tests need from Debian: strace; for several hosts also ip, sshd, rsync, podman
	@tests/cluster/install-tools

format: $(DEV)   ## Let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)    ## Benchmarks side by side against peers
	$(BIN)/python -m benchmarks

recipes: $(DEV)  ## Train the recipes on real data: make recipes DATA=folder (an hour; can be interrupted)
	$(BIN)/python -m benchmarks.recipes $(DATA)

matrix: $(DEV)   ## Runs and sweeps killed at random moments, 20 seeds of each kind, against undisturbed ones (two hours; can be interrupted)
	$(BIN)/python -m tests.integration.checkpoint.cuts
	$(BIN)/python -m tests.integration.sweep.sweep_cuts

outages: $(DEV)  ## The tracking server away for minutes during a training, and 20 kills: every point once (10 minutes)
	ORCHESTRATOR_TEST_OUTAGE_S=60 ORCHESTRATOR_TEST_KILLS=20 $(BIN)/python -m pytest -q tests/integration/tracking/test_outages_in_training.py tests/integration/tracking/test_tracking_outages.py

wheel: $(DEV)    ## Build dist/*.whl
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

clean:           ## Remove the environment and build products
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
