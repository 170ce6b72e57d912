# Everything a fresh machine needs is set up here: `make demo` and `make test` need Python 3.11+ and nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out/demo
VIDEOS ?=

.PHONY: help demo test test-long lint clean
help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[corpus]'
	touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[known]' \
		|| echo 'no C++ compiler for pdqhash: the tests of known content will be skipped'
	touch $@ $(VENV)/.demo-installed

demo: $(VENV)/.demo-installed  ## Moderate a small synthetic set of videos (or VIDEOS=folder), embedded, no server
	$(BIN)/tidegate demo --out $(OUT) $(if $(VIDEOS),--videos "$(VIDEOS)")

lint: $(VENV)/.dev-installed  ## Style, imports and types
	$(BIN)/ruff check .
	$(BIN)/mypy

test: $(VENV)/.dev-installed lint  ## All default tests
	$(BIN)/python -m pytest -n 2

test-long: $(VENV)/.dev-installed  ## The long tests (fuzzing, training from scratch)
	$(BIN)/python -m pytest -n 2 -m long -o faulthandler_timeout=0

clean:  ## Remove the environment and outputs
	rm -rf $(VENV) out
