# make help lists what there is to make.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup test book bench pictures clean

PYTHON ?= python3
EXPERIMENT ?= sample-titles
BIN := .venv/bin

help:  ## list these targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.installed  ## create .venv and install everything at pinned versions

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11, 5) <= sys.version_info < (3, 14) else f"titlesmith needs Python 3.11.5 to 3.13; $(PYTHON) is {sys.version.split()[0]}. Set another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip check
	@touch $@

test: setup  ## check style and run the tests (minutes, no network, no GPU)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

book: setup  ## train on the sample papers and build the book
	@$(BIN)/titlesmith run experiments/sample-titles.yml
	@$(BIN)/titlesmith book

bench: setup  ## measure speed, memory and scale (90 minutes; needs 16 GB of disk and the data that benchmarks/ name)
	@for name in train generate pretrained vocabulary attention harvest corpus sweep book; do $(BIN)/python benchmarks/$$name.py; done

pictures: setup  ## make the pictures of the README from a run of EXPERIMENT (needs playwright and Chromium)
	@$(BIN)/python .ci/pictures.py $(EXPERIMENT)

clean:  ## remove the environment and the built book; runs stay
	rm -rf .venv _build book/runs book/sweeps book/_static/mathjax
