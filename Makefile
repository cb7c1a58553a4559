# make quickstart      set up, train a small network, evaluate it
# make test            set up, run all tests except the long ones
# make faults          run the long fault tests: kill -9 at random times, a lost machine; about 6 minutes
# make fuzz            run the fuzz tests on new damaged and hostile files for an hour (make fuzz FUZZ_S=600: 10 minutes)
# make check           check lint, types and import rules
# make notebook        re-execute main.ipynb in place; it trains on CIFAR-10
# make benchmark       compare speed on CIFAR-10 with the machine's fastest convolution and the original's step, about 5 minutes
# make benchmark-full  the same with cpu94, about 45 minutes
# make page            write the HTML page of pocket-1m, exports/pocket-1m-int8.html (make page MODEL=pocket-5m: of another model)
# make plots           create the tables and pictures of README.md and docs from results/*.csv
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
# A separate folder avoids conflicts with your own runs; `--resume` lets you repeat the command.
RUNS := runs/quickstart
RUN := $(RUNS)/latest
TRAIN := fast --data auto
PYTHON ?= python3
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: quickstart test faults fuzz check notebook benchmark benchmark-full page plots setup setup-dev
.DEFAULT_GOAL := quickstart

quickstart: setup
	$(BIN)/pocket-resnet train $(TRAIN) --runs-dir $(RUNS) --resume || \
		{ code=$$?; echo "to continue, repeat: make quickstart" >&2; exit $$code; }
	$(BIN)/pocket-resnet evaluate $(RUN) --out $(RUN)/evaluation.json
	@echo
	@echo "model    $(RUN)/model"
	@echo "report   $(RUN)/report.html"
	@echo "try      $(BIN)/pocket-resnet predict $(RUN) PICTURE..."
	@echo "         $(BIN)/pocket-resnet train fast --data FOLDER --batch-size 64     # one subfolder per class"
	@echo "         $(BIN)/pocket-resnet summary original"

# One thread per test process, because pytest runs two processes.
test: setup-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

faults: setup-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long --timeout 3600

FUZZ_S ?= 3600

fuzz: setup-dev
	end=$$(( $$(date +%s) + $(FUZZ_S) )); while [ $$(date +%s) -lt $$end ]; do \
		HYPOTHESIS_PROFILE=long OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults/test_fuzz*.py --timeout 3600 || exit 1; \
	done

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

notebook: setup-dev
	$(BIN)/python -m tools.notebook

benchmark: setup-dev
	$(BIN)/python -m tools.speed

benchmark-full: setup-dev
	$(BIN)/python -m tools.speed --recipes fast cpu94

MODEL ?= pocket-1m

page: setup-dev
	$(BIN)/pocket-resnet export $(MODEL) --format web

plots: setup-dev
	$(BIN)/python -m tools.pictures
	$(BIN)/python -m tools.table

setup: $(READY)

setup-dev: $(READY_DEV)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(READY_DEV): requirements-dev.lock $(READY)
	$(BIN)/python -m pip install --quiet -r requirements-dev.lock
	@touch $@
