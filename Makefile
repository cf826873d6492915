# make help lists the targets. Everything runs in a virtual environment of its own, .venv.
VENV ?= .venv
PYTHON ?= python3
JOBS ?= $(shell nproc 2>/dev/null || echo 1)
SEEDS ?= 0,1,2
ARGS ?=
RESULTS ?= results/runs
PY := $(VENV)/bin/python
PARALLEL := hydra/launcher=joblib hydra.launcher.n_jobs=$(JOBS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test table5 switch claims report numerics bench bench-step lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo "  options: JOBS=$(JOBS) parallel runs, SEEDS=$(SEEDS), ARGS='more settings for run.py'"

setup: $(VENV)/.ready ## make the virtual environment (needs Python 3.11 or newer; the only step that needs the network)

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(PY) -e '.[parallel,dev]'
	touch $@

demo: setup ## all six optimizers on synthetic data, offline, in under 3 minutes
	$(PY) run.py -m task=tc data=synthetic protocol=smoke optimizer=sgd,tmsgd,sgdm,tmsgdm,adam,apollo seed=0,1 \
	  data.root=results/demo/data results.root=results/demo $(PARALLEL) $(ARGS)
	$(PY) -m tmsgd_bench table 5 --results results/demo --data synthetic --protocol smoke

test: setup ## all tests, offline, without a GPU
	$(PY) -m pytest

table5: setup ## the paper's Table 5 on real R8, into results/table5 (about 1.5 hours on two cores)
	$(PY) run.py -m experiment=table5 seed=$(SEEDS) results.root=$(RESULTS) $(PARALLEL) $(ARGS)
	$(PY) -m tmsgd_bench table 5 --results $(RESULTS) --out results/table5

switch: setup ## when to switch: SGD and TM-SGD with six switch epochs on real R8 (about an hour on two cores)
	$(PY) run.py -m experiment=switch seed=$(SEEDS) results.root=$(RESULTS) $(PARALLEL) $(ARGS)

claims: setup ## the paper's claims, each with our evidence and a verdict
	$(PY) -m tmsgd_bench claims --results $(RESULTS) $(ARGS)

report: setup ## all results as one page, into results/report
	$(PY) -m tmsgd_bench report --results $(RESULTS) $(ARGS)

numerics: setup ## the rule as a numerical method: orders, stability, noise, into results/numerics (under a minute)
	$(PY) -m tmsgd_bench numerics $(ARGS)

bench-step: setup ## one optimizer step, by implementation, against the memory's speed
	$(PY) scripts/bench_step.py $(ARGS)

bench: setup ## an epoch of R8 against a bare PyTorch loop
	$(PY) scripts/bench_epoch.py $(ARGS)

lint: setup ## ruff and mypy
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

clean: ## remove the virtual environment and the demo's results
	rm -rf $(VENV) results/demo
