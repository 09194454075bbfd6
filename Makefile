# make run · make test · make fast · make kills · make lab · make student · make check · make demo · make site ·
# make test-browser · make claims · make bench · make audit · make notebooks · make reset
# Each makes .venv from requirements.txt first, when it is missing or out of date.
#
# LOCK names the releases to install: make LOCK= test takes the newest ones,
# make LOCK=requirements-oldest.txt test the oldest.

PYTHON ?= python3
LOCK ?= requirements-lock.txt
BIN := .venv/bin
READY := .venv/installed-with-$(notdir $(or $(LOCK),the-newest))
# Only recipes may use it: the program needs .venv.
NOTEBOOKS = $(or $(shell $(BIN)/python tools/list_notebooks.py),$(error tools/list_notebooks.py lists nothing))
# Threads sleep while they wait for each other; on a busy machine, PyTorch is five times as fast then.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: run test fast kills lint lab student check demo site test-browser claims bench audit notebooks reset

run: $(READY)
	@$(BIN)/python tools/run_notebooks.py

# Notebooks in two chains at once, then the other tests.
test: lint
	@$(BIN)/python -m tools.run_tests

fast: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not kills" tests

kills: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m kills tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lab: $(READY)
	$(BIN)/jupyter lab $(firstword $(NOTEBOOKS))

student: $(READY)
	@$(BIN)/python tools/student.py

check: $(READY)
	@$(BIN)/python tools/check.py

demo: $(READY)
	@$(BIN)/python tools/demo.py

site: $(READY)
	@$(BIN)/python tools/make_site.py

# Says what it needs, if that is not installed.
test-browser: $(READY)
	$(BIN)/python -m pytest tests/interactive/browser.py tests/interactive/lab.py

claims: $(READY)
	@$(BIN)/python tools/claims.py

bench: $(READY)
	@$(BIN)/python benchmarks/bench.py

# Installs the tools that it audits in .venv-audit.
audit: $(READY)
	@$(BIN)/python tools/audit_frameworks.py

notebooks: $(READY)
	@$(BIN)/python tools/make_exercises.py
	@$(BIN)/python tools/run_notebooks.py --in-place

reset:
	@$(PYTHON) tools/reset.py

$(READY): requirements.txt $(LOCK)
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)'. Install Python 3.11 or newer, or name yours: make PYTHON=python3.12 run"; exit 1; }
	@$(PYTHON) tools/check_python.py
	@echo "Making .venv from requirements.txt: about three minutes, and up to 6 GB with PyTorch's GPU libraries."
	@$(PYTHON) -m venv .venv
	@rm -f .venv/installed-with-*
	@$(BIN)/python -m pip install --disable-pip-version-check --upgrade --requirement requirements.txt $(addprefix --constraint ,$(LOCK))
	@touch $@
