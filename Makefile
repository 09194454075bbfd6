# `make help` lists the commands. Each makes .venv from requirements.txt first, when it is missing or
# out of date.
#
# LOCK names the releases to install: make LOCK= test takes the newest ones,
# make LOCK=requirements-oldest.txt test the oldest.

PYTHON ?= python3
LOCK ?= requirements-lock.txt
BIN := .venv/bin
READY := .venv/installed-with-$(notdir $(or $(LOCK),the-newest))
# Only recipes may use it: the program needs .venv.
NOTEBOOKS = $(or $(shell $(BIN)/python -m tools.list_notebooks),$(error tools/list_notebooks.py lists nothing))
# Threads sleep while they wait for each other; on a busy machine, PyTorch is five times as fast then.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup run test fast kills lint lab student check demo site test-browser claims bench audit notebooks reset

help:  ## lists the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf 'make %-13s %s\n' "$$name" "$$text"; done

setup: $(READY)  ## only makes .venv

run: $(READY)  ## runs all notebooks; then open build/index.html
	@$(BIN)/python -m tools.run_notebooks

# Notebooks in two chains at once, then the other tests.
test: lint  ## runs all tests
	@$(BIN)/python -m tools.run_tests

fast: lint  ## runs the quick tests, in a minute
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not kills" tests

kills: $(READY)  ## kills runs at many more moments, 10 minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m kills tests

lint: $(READY)  ## checks the code's style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lab: $(READY)  ## opens notebook 1 in JupyterLab
	$(BIN)/jupyter lab $(firstword $(NOTEBOOKS))

student: $(READY)  ## copies the notebooks to work/, without outputs
	@$(BIN)/python -m tools.student

check: $(READY)  ## checks your machine before a lecture
	@$(BIN)/python -m tools.check

demo: $(READY)  ## prepares demo/ for a live lecture
	@$(BIN)/python -m tools.demo

site: $(READY)  ## builds offline pages and slides in site/
	@$(BIN)/python -m tools.make_site

# Says what it needs, if that is not installed.
test-browser: $(READY)  ## tests the pages and JupyterLab in Chromium
	$(BIN)/python -m pytest tests/interactive/browser.py tests/interactive/lab.py

claims: $(READY)  ## runs the notebooks with other settings and checks what the text claims
	@$(BIN)/python -m tools.claims

bench: $(READY)  ## measures the times in benchmarks/README.md
	@$(BIN)/python benchmarks/bench.py

# Installs the tools that it audits in .venv-audit.
audit: $(READY)  ## audits other tools again, half an hour, and writes docs/audit.json
	@$(BIN)/python -m tools.audit_frameworks

notebooks: $(READY)  ## runs all notebooks and stores their outputs
	@$(BIN)/python -m tools.make_exercises
	@$(BIN)/python -m tools.run_notebooks --in-place

reset:  ## deletes saved and built files
	@$(PYTHON) -m tools.reset

# After `uv sync`, which takes the newest releases, those of LOCK are installed again.
$(READY): requirements.txt $(LOCK) $(wildcard uv.lock)
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)'. Install Python 3.11 or newer, or name yours: make PYTHON=python3.12 run"; exit 1; }
	@$(PYTHON) -m tools.check_python
	@echo "Making .venv from requirements.txt: about three minutes, and up to 6 GB with PyTorch's GPU libraries."
	@$(PYTHON) -m venv .venv
	@rm -f .venv/installed-with-*
	@$(BIN)/python -m pip install --disable-pip-version-check --upgrade --requirement requirements.txt $(addprefix --constraint ,$(LOCK))
	@touch $@
