# make help lists the targets. Everything runs in the virtual environment .venv, which make setup installs.
VENV ?= .venv
PYTHON ?= python3
JOBS ?= $(shell nproc 2>/dev/null || echo 1)
SEEDS ?= 0,1,2
SECONDS ?= 600
TASKS ?= tc ctr fkpd ig seg od ic
# Those that make tuned takes without TASKS: where it is cheap. Its seeds are its own, unless SEEDS is given.
TUNED_TASKS := $(if $(filter file default undefined,$(origin TASKS)),tc ctr fkpd ic,$(TASKS))
TUNED_SEEDS := $(if $(filter file default undefined,$(origin SEEDS)),,seed=$(SEEDS))
ARGS ?=
RESULTS ?= results/runs
PY := $(VENV)/bin/python
PARALLEL := hydra/launcher=cores hydra.launcher.n_jobs=$(JOBS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-gpu faults table1 table2 table3 table4 table5 ic fig1 fig2 ig seg ctr switch reduced reduced-plan $(TASKS:%=reduced-%) search search-plan tuned $(TUNED_TASKS:%=search-%) $(TUNED_TASKS:%=tuned-%) paper claims report verify numerics bench bench-input bench-step docs lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile
	@echo "  options: JOBS=$(JOBS) parallel runs, SEEDS=$(SEEDS), TASKS of make reduced, search and tuned, RESULTS=$(RESULTS) the runs, OUT=$(OUT) what is made of them, ARGS='more settings' (for run.py; plan=true prints the runs and starts none)"

setup: $(VENV)/.ready ## install into .venv (Python 3.11 or newer; needs the network)

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(PY) -e '.[bench,parallel,slurm,od,dev]'
	touch $@

demo: setup ## train six optimizers on synthetic data, offline, and compare them (under 3 minutes)
	$(PY) run.py -m task=tc data=synthetic protocol=smoke optimizer=sgd,tmsgd,sgdm,tmsgdm,adam,apollo seed=0,1 \
	  data.root=results/demo/data results.root=results/demo $(PARALLEL) $(ARGS)
	$(call AFTER,compare --results results/demo)

# With compiled modules kept, whatever the environment says: many processes import them.
PYTEST := PYTHONDONTWRITEBYTECODE= $(PY) -m pytest --dist loadfile

test: setup ## run all tests, offline, without a GPU
	$(PYTEST) -n $$(( $(JOBS) + 1 ))  # one more than cores: some tests wait for processes

test-fast: setup ## run the fast tests, for daily work: none that takes long or starts processes
	$(PYTEST) -n $(JOBS) -m "not slow"

test-gpu: setup ## run the tests that need a GPU
	$(PY) -m pytest tests/optim/test_fused_gpu.py tests/engine/test_environment.py tests/tasks/test_on_gpu.py

faults: setup ## inject kills, damaged files and full disks for SECONDS=600, and see that nothing is lost
	$(PY) scripts/fault_campaign.py --seconds $(SECONDS) $(ARGS)

table1 table2: setup ## the paper's Tables 1 and 2, settings as printed and as corrected, into OUT/settings
	$(PY) scripts/settings.py --out $(OUT)/settings

# What is made of a store's runs is written beside it: results/ itself has what is published.
STORE := $(patsubst %/,%,$(firstword $(RESULTS)))
OUT ?= $(STORE)-out
ifeq ($(and $(strip $(RESULTS)),$(strip $(OUT))),)
$(error RESULTS and OUT must name folders, and not be empty)
endif
ifneq ($(findstring results.root=,$(ARGS)),)
$(error ARGS must not hold results.root=: give RESULTS=FOLDER, which also says what the tables are made of)
endif
# Make hands these names to the shell as they are, and the shell reads such letters in its own way.
UNSAFE := ' " ` \ $$ ; & | < > * ?
ifneq ($(strip $(foreach letter,$(UNSAFE),$(findstring $(letter),$(RESULTS)$(OUT)))),)
$(error RESULTS=$(RESULTS) and OUT=$(OUT) must hold none of $(UNSAFE): name folders without them)
endif
# A plan (ARGS=plan=true) starts nothing, and nothing is made after it.
PLAN := $(filter-out %plan=false %plan=False %plan=FALSE,$(filter plan=% +plan=% ++plan=%,$(subst ',,$(subst ",,$(ARGS)))))
AFTER = $(if $(PLAN),,$(PY) -m tmsgd_bench $(1))

# A table of the paper: an experiment of conf/experiment, and what is made of it.
SWEEP = $(PY) run.py -m experiment=$@ seed=$(SEEDS) results.root=$(RESULTS) $(PARALLEL) $(ARGS)
TABLE = $(call AFTER,table $(1) --results $(RESULTS) --out $(OUT)/$@ --protocol $(or $(2),table2))
FIGURE = $(call AFTER,figure $(1) --results $(RESULTS) --out $(OUT)/$(or $(2),figures))
REPORT = report --results $(RESULTS) --out $(OUT)/report

table5: setup ## the paper's Table 5: text, R8 (1.5 hours on two cores)
	$(SWEEP)
	$(call TABLE,5)

table3: setup ## the paper's Table 3: detection, VOC with Fast R-CNN and RFBNet (needs a GPU)
	$(SWEEP)
	$(call TABLE,3)

table4: setup ## the paper's Table 4: facial key points (needs a GPU)
	$(SWEEP)
	$(call TABLE,4)

ic: setup ## image classification, CIFAR-10 and CIFAR-100 (needs a GPU)
	$(SWEEP)
	$(call TABLE,ic,corrected)

seg: setup ## segmentation, VOC with LRASPP (needs a GPU)
	$(SWEEP)
	$(call TABLE,seg,corrected)

ig: setup ## image generation and its FID (needs a GPU)
	$(SWEEP)
	$(call TABLE,ig)

ctr: setup ## click-through rate, Avazu (hours; you must download train.gz)
	$(SWEEP)
	$(call TABLE,ctr)

fig1: table4 ## the paper's Figure 1: key points on seven test faces (after table4)
	$(call FIGURE,1)

fig2: ig ## the paper's Figure 2: sneakers by each optimizer's generator (after ig)
	$(call FIGURE,2)

paper: $(if $(PLAN),,table1) table3 seg table4 table5 ic ig ctr fig1 fig2 ## all tables and figures, then the report
	$(call AFTER,$(REPORT))

switch: setup ## TM-SGD with six switch epochs against SGD, R8 (40 minutes on two cores)
	$(SWEEP)
	$(call FIGURE,switch,switch)

# Every task by experiment=reduced: all plans first, then a sweep and a table for each task. After a failed sweep,
# make -k goes on with the next task.
REDUCED = $(PY) run.py -m experiment=reduced task=$(1) seed=$(SEEDS) results.root=$(RESULTS) $(PARALLEL) $(ARGS)
REDUCED_DATA := $(if $(findstring data=synthetic,$(ARGS)),--data synthetic)
TABLE_OF_tc := 5
TABLE_OF_fkpd := 4
TABLE_OF_od := 3
define LINE


endef

reduced: $(if $(PLAN),reduced-plan,$(TASKS:%=reduced-%)) ## all tasks in minutes a run, on TASKS' reduced real data (a night on two cores)
	$(if $(REDUCED_DATA),@echo "synthetic data decide no claim: none is judged",$(call AFTER,claims --results $(RESULTS) --out $(OUT)/reduced/claims --protocol reduced))

reduced-plan: setup
	$(foreach task,$(TASKS),$(call REDUCED,$(task)) plan=true$(LINE))

$(TASKS:%=reduced-%): reduced-%: reduced-plan
	$(call REDUCED,$*)
	$(PY) -m tmsgd_bench table $(or $(TABLE_OF_$*),$*) --results $(RESULTS) --out $(OUT)/reduced/$* --protocol reduced $(REDUCED_DATA)

# The best learning rates of TUNED_TASKS, in two steps: experiment=search on the validation split, then experiment=tuned
# with the rates that 'best' finds in the store, in a sweep of its own for each task. The plans of the searches come first.
SEARCH = $(PY) run.py -m experiment=search task=$(1) results.root=$(RESULTS) $(PARALLEL) $(ARGS)
BEST = $(PY) -m tmsgd_bench best --results $(RESULTS) --task $(1) $(REDUCED_DATA) --settings
TESTED = best=$$($(BEST)) && $(PY) run.py -m experiment=tuned task=$(1) $$best $(TUNED_SEEDS) results.root=$(RESULTS) $(PARALLEL) $(ARGS)

search: $(if $(PLAN),search-plan,$(TUNED_TASKS:%=search-%)) ## the first half of make tuned: every learning rate, on the validation split

search-plan: setup
	$(foreach task,$(TUNED_TASKS),$(call SEARCH,$(task)) plan=true$(LINE))

$(TUNED_TASKS:%=search-%): search-%: search-plan
	$(call SEARCH,$*)

tuned: $(if $(PLAN),search-plan,$(TUNED_TASKS:%=tuned-%)) ## each optimizer with its best learning rate, on TASKS' reduced real data (5.5 hours on two cores)
	$(call AFTER,tuned --results $(RESULTS) $(REDUCED_DATA) --out $(OUT)/tuned)
	$(call AFTER,figure lr --results $(RESULTS) $(REDUCED_DATA) --out $(OUT)/tuned/figures)
	$(if $(REDUCED_DATA),@echo "synthetic data decide no claim: none is judged",$(call AFTER,claims --results $(RESULTS) --out $(OUT)/tuned/claims --protocol tuned))

$(TUNED_TASKS:%=tuned-%): tuned-%: search-%
	$(call TESTED,$*)

claims: setup ## print the paper's claims, each with our evidence and a verdict
	$(PY) -m tmsgd_bench claims --results $(RESULTS) $(ARGS)

docs: setup ## build the documentation's web site into site/
	$(VENV)/bin/uv pip install --quiet --python $(PY) -e '.[docs]'
	$(PY) scripts/build_docs.py

report: setup ## all results as HTML pages, into OUT/report
	$(PY) -m tmsgd_bench $(REPORT) $(ARGS)

verify: setup ## make all that is published in results again from its evidence, and compare (half a minute)
	$(PY) -m tmsgd_bench verify $(ARGS)

numerics: setup ## the method as an integrator: order, stability, noise, into OUT/numerics (half a minute)
	$(PY) -m tmsgd_bench numerics --out $(OUT)/numerics $(ARGS)

bench-step: setup ## time one optimizer step, for each implementation
	$(PY) scripts/bench_step.py $(ARGS)

bench: setup ## time an epoch of R8 against a plain PyTorch loop
	$(PY) scripts/bench_epoch.py $(ARGS)

bench-input: setup ## time the making of batches in the image tasks against a DataLoader
	$(PY) scripts/bench_input.py $(ARGS)

lint: setup ## ruff and mypy
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

clean: ## delete .venv and the demo's results
	[ ! -f "$(VENV)/.ready" ] || [ ! -f "$(VENV)/pyvenv.cfg" ] || rm -rf "$(VENV)"
	rm -rf results/demo
