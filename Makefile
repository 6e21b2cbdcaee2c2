# Everything runs in a virtual environment in .venv, which the first command makes.
# Needed beforehand: Python 3.10 or newer, and make.

PYTHON ?= python3
PORT ?= 7860
WORKERS ?= 2
ARGS ?=
PIP_ARGS ?=

VENV := .venv
NUMERIC := $(addprefix tests/,test_flow.py models media weights flying world data control_card bench train/stages train/loop)
PY := $(VENV)/bin/python
# A worker that has run out of tests takes over half of what another one still has. More workers need 2 GB each.
PYTEST = $(PY) -m pytest -n $(WORKERS) --dist worksteal
INSTALL = $(PY) -m pip install --disable-pip-version-check --quiet -c constraints.txt $(PIP_ARGS)

BIOME = $(MAKE) --no-print-directory node_modules/.installed && node_modules/.bin/biome check

.DEFAULT_GOAL := help
.PHONY: help demo test narrow check format cards clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10
	@echo
	@echo "PORT=$(PORT)          port of the demo"
	@echo "WORKERS=$(WORKERS)          processes that share the tests; 0 runs them in one, as a debugger needs it"
	@echo "ARGS='...'         more arguments: of app.py for demo, of pytest for test"
	@echo "PYTHON=$(PYTHON)     the Python that .venv is made with"
	@echo "PIP_ARGS='...'     more arguments for pip install"

demo: $(VENV)/.app ## Fly in the bundled world, at http://127.0.0.1:PORT
	$(PY) app.py --model_dir assets/nano --runs assets/runs --port $(PORT) $(ARGS)

test: $(VENV)/.dev ## Run all tests, the browser's too where Chromium is installed
	$(PYTEST) $(ARGS)

narrow: $(VENV)/.dev ## Run the numeric tests on the kernels of a processor with AVX2 alone
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) $(NUMERIC) $(ARGS)

check: $(VENV)/.dev ## Check style, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@if command -v node >/dev/null; then $(VENV)/bin/pyright; else echo "pyright skipped: it needs node"; fi
	@if command -v npm >/dev/null; then $(BIOME) --error-on-warnings; else echo "biome skipped: it needs npm"; fi

format: $(VENV)/.dev ## Format the code and sort its imports
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	@if command -v npm >/dev/null; then $(BIOME) --write; else echo "biome skipped: it needs npm"; fi

cards: $(VENV)/.app ## Measure what the bundled checkpoints do with the controls (minutes each)
	$(PY) -m wanact card assets/runs/* --base $(ARGS)

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) node_modules .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are younger than what they were installed from, so that a second run installs nothing.
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is older than Python 3.10; name another with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app: requirements.txt constraints.txt | $(PY)
	@echo "Installing what the app needs (minutes, once) ..."
	$(INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-pilot.txt requirements.txt constraints.txt | $(PY)
	@echo "Installing what the tests need (minutes, once) ..."
	$(INSTALL) -r requirements-dev.txt
	@touch $@

node_modules/.installed: package.json package-lock.json
	@npm ci --no-audit --no-fund --silent
	@touch $@
