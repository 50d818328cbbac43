# `make demo` and `make test` install all they need in .venv; nothing else is asked of the machine.
PYTHON ?= python3
# `make test TORCH=2.14.1` takes another torch than the tested one, in an environment of its own.
TESTED := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH := $(TESTED)
VENV := .venv$(if $(filter-out $(TESTED),$(TORCH)),-torch-$(TORCH))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PINS := $(VENV)/constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS)
# Two workers on two cores: each keeps to one thread.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help demo test test-all check format lint types docs supply site gallery notebooks package clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	sed 's/^torch==.*/torch==$(TORCH)/' constraints.txt > $(PINS)
	$(INSTALL) torch
	$(INSTALL) -e '.[dev]'
	touch $@

install: $(STAMP)  ## create .venv with the tested versions

demo: $(STAMP)  ## train, prune, cut, measure and report on the digits (under two minutes)
	$(BIN)/secateur study run demo

test: $(STAMP)  ## the default tests, doctests included
	$(THREADS) $(BIN)/python -m pytest -n 2

test-all: $(STAMP)  ## the default tests and the long ones
	$(THREADS) $(BIN)/python -m pytest -n 2 -m "slow or not slow"

check: format lint types test docs supply  ## all that a change must pass

format: $(STAMP)  ## formatting, checked (ruff format . mends it)
	$(BIN)/ruff format --check .

lint: $(STAMP)  ## ruff's rules
	$(BIN)/ruff check .

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

docs: $(STAMP)  ## the documents' examples and links, and that nothing public is undocumented
	$(THREADS) $(BIN)/python -m pytest tests/test_docs.py

supply: $(STAMP)  ## dependencies: justified, pinned, of known licences, fitting together; imports quick and lazy
	$(BIN)/python -m pip check
	$(THREADS) $(BIN)/python -m pytest tests/test_supply.py

site: $(STAMP)  ## the documentation as web pages, in site/; needs no network to be read
	$(INSTALL) -e '.[site]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

gallery: $(STAMP)  ## run the gallery's pages anew and put their pictures beside them
	$(THREADS) $(BIN)/python docs/build/gallery.py

notebooks: $(STAMP)  ## the tutorial and the gallery as notebooks, in build/notebooks, each run
	$(INSTALL) -e '.[notebooks]'
	$(THREADS) $(BIN)/python docs/build/notebooks.py build/notebooks
	$(THREADS) $(BIN)/python -m pytest --nbmake --override-ini addopts= --override-ini filterwarnings=default build/notebooks

package: $(STAMP)  ## the wheel and the source archive, in dist/, and the wheel tried in an environment of its own
	$(INSTALL) build
	$(BIN)/python -m build --outdir dist
	$(BIN)/python docs/build/try_wheel.py dist

clean:  ## remove what the targets made
	rm -rf .venv* runs build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
