# make help lists what there is to make.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup test book bench pictures clean

PYTHON ?= python3
EXPERIMENT ?= sample-titles
# An active conda environment is used, except base; otherwise .venv is created
CONDA := $(filter-out base,$(CONDA_DEFAULT_ENV))
ENV := $(if $(CONDA),$(CONDA_PREFIX),.venv)
BIN := $(ENV)/bin
BOOK := $(ENV)/.titlesmith-book
ALL := $(ENV)/.titlesmith-all
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

help:  ## list these targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(ALL)  ## create .venv and install everything at pinned versions

# What `make book` needs: no PyTorch, no Gradio, no browser
$(BOOK): pyproject.toml constraints.txt
	@$(if $(CONDA),$(BIN)/python,$(PYTHON)) .ci/check_python.py
	$(if $(CONDA),,$(PYTHON) -m venv --clear .venv)
	$(INSTALL) '.[book]'
	@touch $@

$(ALL): $(BOOK)
	$(INSTALL) '.[dev]' $$($(BIN)/python .ci/torch_index.py)
	$(BIN)/python -m pip check
	@touch $@

test: setup  ## check style and run the tests (minutes, no network, no GPU)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

book: $(BOOK)  ## train on the sample papers and build the book
	@$(BIN)/titlesmith run experiments/sample-titles.yml
	@$(BIN)/titlesmith book

bench: setup  ## measure speed, memory and scale (90 minutes; needs 16 GB of disk and the data that benchmarks/ name)
	@for name in train generate pretrained vocabulary attention harvest corpus sweep book; do $(BIN)/python benchmarks/$$name.py; done

pictures: setup  ## make the pictures of the README from a run of EXPERIMENT (needs playwright and Chromium)
	@$(BIN)/python .ci/pictures.py $(EXPERIMENT)

clean:  ## remove the environment and the built book; runs stay
	rm -rf .venv _build book/runs book/sweeps
