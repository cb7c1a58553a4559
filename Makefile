# make quickstart      set up, train a small network, evaluate it
# make test            set up, run every test but the long ones
# make faults          the long tests of faults: kill -9 on the real command, again and again, about 2 minutes
# make fuzz            damaged and hostile files, other ones in every round, for an hour (make fuzz FUZZ_S=600: 10 minutes)
# make check           lint, types and the order of imports
# make notebook        main.ipynb anew, in place: a training on CIFAR-10, its figures, its mistakes
# make benchmark       speed on CIFAR-10 beside the machine's convolution rate and the reference's step, about 4 minutes
# make benchmark-full  the same with cpu94, about 45 minutes
# make page            the page of a released model for the browser, exports/NAME-int8.html (make page MODEL=cpu94); needs its data
# make plots           the tables and pictures of README.md and docs/report.md from results/*.csv
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# In a folder of its own, so that runs of yours are never in its way; `--resume` makes it work again and again.
RUNS := runs/quickstart
RUN := $(RUNS)/latest
TRAIN := fast --data auto
PYTHON ?= python3
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: quickstart test faults fuzz check notebook benchmark benchmark-full page plots setup
.DEFAULT_GOAL := quickstart

quickstart: setup
	$(BIN)/pocket-resnet train $(TRAIN) --runs-dir $(RUNS) --resume
	$(BIN)/pocket-resnet evaluate $(RUN) --out $(RUN)/evaluation.json
	@echo
	@echo "model    $(RUN)/model"
	@echo "report   $(RUN)/report.html"
	@echo "try      $(BIN)/pocket-resnet predict $(RUN) PICTURE..."
	@echo "         $(BIN)/pocket-resnet train fast --data FOLDER --batch-size 64     # one subfolder a class"
	@echo "         $(BIN)/pocket-resnet summary original"

# One thread a test process: two test processes share the cores.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

faults: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long --timeout 3600

FUZZ_S ?= 3600

fuzz: setup
	end=$$(( $$(date +%s) + $(FUZZ_S) )); while [ $$(date +%s) -lt $$end ]; do \
		HYPOTHESIS_PROFILE=long OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults/test_fuzz*.py --timeout 3600 || exit 1; \
	done

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

notebook: setup
	$(BIN)/python -m tools.notebook

benchmark: setup
	$(BIN)/python -m tools.speed

benchmark-full: setup
	$(BIN)/python -m tools.speed --recipes fast cpu94

MODEL ?= pocket-5m

page: setup
	$(BIN)/pocket-resnet export $(MODEL) --format web

plots: setup
	$(BIN)/python -m tools.pictures
	$(BIN)/python -m tools.table

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
