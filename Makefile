# Verbs for everybody; each prepares what it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help install demo test test-cluster check bench cluster cluster-down cluster-env clean

help:
	@echo "make demo           pretrain three streams on a small synthetic set, probe, fuse, compare in MLflow"
	@echo "make test           every test that runs on a laptop, and one on a real Slurm where root allows it"
	@echo "make test-cluster   the others on a real Slurm: four nodes on this machine, as root, about half an hour"
	@echo "make check          ruff and mypy"
	@echo "make bench          speed and memory, as ratios"
	@echo "make cluster        Slurm at the desk: the four nodes for yourself, as root; make cluster-down removes them"
	@echo "make install        .venv with everything (the others call it)"

install: $(STAMP)

$(STAMP): setup.cfg constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) on the PATH: install Python 3.11, or say make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[caption,export,test]"
	touch $@

demo: install
	$(BIN)/python launch/demo.py

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not cluster"

test-cluster: install
	$(BIN)/python -m pytest -m cluster --durations=40

check: install
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m benchmarks

cluster:
	@$(PYTHON) tests/slurm/box.py up >/dev/null
	@echo 'four nodes of a real Slurm; to use them:   eval "$$(make -s cluster-env)"'
	@echo 'then, for example:                         $(BIN)/python launch/pretrain.py --nodes 4'
	@echo 'and when done:                             make cluster-down'

cluster-env:
	@$(PYTHON) tests/slurm/box.py env

cluster-down:
	@$(PYTHON) tests/slurm/box.py down

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
