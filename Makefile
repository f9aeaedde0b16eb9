# The whole developer interface. Every target sets up what it needs by itself, from pinned versions.
#
#   make demo    render the quickstart on the embedded model, lay out its sheet and its explorer
#   make test    lint, types, import contracts and the tests (under five minutes on two cores)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help demo test test-full lint format docs bench clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -4
	@echo "  make test-full, lint, format, docs, bench, clean"

# --- set-up ------------------------------------------------------------------------------------

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "The farm needs Python 3.11 or newer; say which: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runs: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Setting up $(VENV) (a few minutes, once) ..."
	$(PIP) install --constraint constraints.txt pip
	$(PIP) install --constraint constraints.txt --editable '.[torch,onnx,sde,s3,plot,web]'
	@touch $@

$(VENV)/.develops: $(VENV)/.runs
	$(PIP) install --constraint constraints.txt --group test --group lint --group recipe
	@touch $@

# --- what people do ----------------------------------------------------------------------------

demo: $(VENV)/.runs
	$(BIN)/farm submit jobs/quickstart.yaml
	$(BIN)/farm sheet out/quickstart --x style --y subject --out out/quickstart/sheets/quickstart.png
	@echo "The explorer: the same images on a page with any axes; open it in a browser."
	$(BIN)/farm gallery out/quickstart

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not gpu"

# Also the slow suites: kills at every step, every sampler on the embedded model.
test-full: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not gpu"

lint: $(VENV)/.develops
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.develops
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Regenerate what is derived from the code: the job schema and the reference pages.
docs: $(VENV)/.runs
	$(BIN)/python docs/generate.py

bench: $(VENV)/.develops
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
