PYTHON ?= python3
BIN := .venv/bin
CALLS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench

help:  ## show the targets
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' $(MAKEFILE_LIST)

demo: $(BIN)/.installed  ## pretrain and probe a tiny backbone; CALLS=/path/to/recordings uses yours
	$(BIN)/python -m examples.demo $(if $(CALLS),"$(CALLS)")

test: $(BIN)/.installed  ## run every test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(BIN)/.installed  ## check style, layout and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

bench: $(BIN)/.installed  ## run the benchmarks; results go to benchmarks/results
	@for file in benchmarks/[a-z]*.py; do $(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; done

$(BIN)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,train,demo,media]'
	touch $@
