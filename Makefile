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

# A file's engine tests share a cluster, an engine or a run, so files go two at a time, those with whole runs first.
ENGINE_TESTS := tests/test_faults.py tests/test_end_to_end.py tests/actors tests/test_ray_job.py
# On two busy cores Ray's job agent drops its clients.
ALONE := tests/test_ray_job.py

test: $(STAMP) ## unit tests, then tests with real engines, two at a time
	status=0; OMP_NUM_THREADS=1 pytest -m unit -n 2 || status=1; \
	pytest -m "engine and not soak" -n 2 --dist loadfile --no-loadscope-reorder $(filter-out $(ALONE),$(ENGINE_TESTS)) || status=1; \
	pytest -m engine $(ALONE) || status=1; exit $$status

check: $(STAMP) ## format, lint, types, layers
	ruff format --check .
	ruff check .
	mypy
	pytest tests/test_layers.py

soak: $(STAMP) ## the long tests
	pytest -m soak --timeout 0
