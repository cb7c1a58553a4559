# make quickstart   set up, train a small network, evaluate it
# make test         set up, run every test
# make check        lint and types
# make benchmark    speed on CIFAR-10 beside the machine's convolution rate and the reference's step, about 6 minutes
# make benchmark-full  the same with the 94% runs, about 40 minutes
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN := runs/latest
PYTHON ?= python3
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: quickstart test check benchmark benchmark-full setup
.DEFAULT_GOAL := quickstart

quickstart: setup
	$(BIN)/pocket-resnet train fast --data auto --resume
	$(BIN)/pocket-resnet evaluate $(RUN) --json $(RUN)/evaluation.json
	@echo
	@echo "model    $(RUN)/model"
	@echo "report   $(RUN)/report.html"
	@echo "try      $(BIN)/pocket-resnet predict $(RUN) PICTURE..."
	@echo "         $(BIN)/pocket-resnet train fast --data FOLDER --batch-size 64     # one subfolder a class"
	@echo "         $(BIN)/pocket-resnet summary original"

# One thread a test process: two test processes share the cores.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: setup
	$(BIN)/python benchmarks/speed.py

benchmark-full: setup
	$(BIN)/python benchmarks/speed.py --recipes fast cpu94

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
