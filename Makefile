# Four verbs for everybody (demo, test, check, bench); each prepares what it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help install demo test check bench clean

help:
	@echo "make demo     pretrain three streams on a small synthetic set, probe, fuse, compare in MLflow"
	@echo "make test     every test that runs on a laptop"
	@echo "make check    ruff and mypy"
	@echo "make bench    speed and memory, as ratios"
	@echo "make install  .venv with everything (the others call it)"

install: $(STAMP)

$(STAMP): setup.cfg constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) on the PATH: install Python 3.11, or say make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[caption,test]"
	touch $@

demo: install
	$(BIN)/python launch/demo.py

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m benchmarks

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
