# What a contributor does. Each target makes the virtual environment it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
BENCH ?= bench
SITE ?= site

.PHONY: help demo test lint docs bench clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 8

# One environment for all; made anew when the project's dependencies change.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

demo: $(VENV)/.installed  ## a small shop: raw files to recommendations
	rm -rf "$(DEMO)"
	BIN="$(BIN)" DEMO="$(DEMO)" examples/quickstart/run.sh

test: $(VENV)/.installed  ## all tests
	$(BIN)/pytest

lint: $(VENV)/.installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed  ## the documentation as a site, in site/; links are checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --site-dir "$(SITE)"

bench: $(VENV)/.installed  ## accuracy beside baselines, peers and ablations; takes days, stop and go on
	$(BIN)/python -m benchmarks.accuracy --work "$(BENCH)"

clean:  ## remove what the targets made
	rm -rf $(VENV) $(DEMO) dist build .pytest_cache .mypy_cache .ruff_cache
