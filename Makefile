# make run · make test · make lab · make bench · make notebooks · make reset
# Each makes .venv from requirements.txt first, when it is missing or out of date.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/requirements-installed
# In this order: each uses what those before it have saved.
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))

.PHONY: run test lab bench notebooks reset

run: $(READY)
	@$(BIN)/python tools/run_notebooks.py $(NOTEBOOKS)

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf notebooks/saved_data
	$(BIN)/python -m pytest

lab: $(READY)
	$(BIN)/jupyter lab $(firstword $(NOTEBOOKS))

bench: $(READY)
	@$(BIN)/python benchmarks/bench.py

notebooks: $(READY)
	@$(BIN)/python tools/exercises.py
	@$(BIN)/python tools/run_notebooks.py --in-place $(NOTEBOOKS) $(wildcard notebooks/solutions/*.ipynb)

reset:
	rm -rf notebooks/saved_data build

$(READY): requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)'. Install Python 3.11 or newer, or name yours: make PYTHON=python3.12 run"; exit 1; }
	@$(PYTHON) tools/check_python.py
	@echo "Making .venv from requirements.txt: about three minutes, and up to 6 GB with PyTorch's GPU libraries."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.txt
	@touch $@
