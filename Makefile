# Every target makes what it needs: a virtual environment in VENV (default .venv) with the project and its tools.
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed

export PATH := $(BIN):$(PATH)

.PHONY: help install quickstart test check soak

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## virtual environment with everything; VENV=DIR names another than .venv

$(STAMP): pyproject.toml .ci/install
	.ci/install $(VENV)
	@touch $@

quickstart: $(STAMP) ## SFT, then GRPO, on the synthetic world: minutes on two cores
	rex-rl train configs/quickstart.yaml

# Engines measure themselves against the clock and want the cores alone; both parts run, whatever the first one finds.
test: $(STAMP) ## unit tests, two at a time, then tests with real engines, one at a time
	status=0; OMP_NUM_THREADS=1 pytest -m unit -n 2 || status=1; pytest -m "engine and not soak" tests || status=1; exit $$status

check: $(STAMP) ## format, lint, types, layers
	ruff format --check .
	ruff check .
	mypy
	pytest tests/test_layers.py

soak: $(STAMP) ## the long tests
	pytest -m soak --timeout 0
